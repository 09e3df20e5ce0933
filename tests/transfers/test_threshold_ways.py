"""Ways of moving a threshold, each beside naive numpy code."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from compatbench.backbone import Backbone
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.extras.check.method_under_test import LABELS, MethodUnderTest
from compatbench.extras.check.models import wrap
from compatbench.method import FeatureSet, FewShotData, Module
from compatbench.method.predictions import predict
from compatbench.method.registry import builtin_methods, builtin_transfers, find_transfer
from compatbench.method.transfer import OldAnswers, TransferData, Unlabelled
from compatbench.methods.threshold import choose_threshold
from compatbench.transfers.platt import fit_chances

THRESHOLD: Any = builtin_methods().get("threshold")
COUNT = 60  # images


@pytest.fixture(scope="module")
def models() -> tuple[Backbone, Backbone]:
    tested = MethodUnderTest(THRESHOLD)
    return tuple(  # type: ignore[return-value]
        wrap(copy.deepcopy(each.model).double(), each.name)
        for each in (tested.source, tested.target)
    )


def draw_features(backbone: Backbone, seed: int = 1) -> torch.Tensor:
    """Features near those of classes, ``[N, e]``, each class with images."""
    rng = np.random.default_rng(seed)
    texts = backbone.zero_shot(LABELS).numpy()[rng.integers(0, 5, COUNT)]
    return torch.tensor(texts + rng.normal(0, 0.4, texts.shape) * np.abs(texts).mean())


def cosines_of(backbone: Backbone, features: torch.Tensor) -> np.ndarray:
    texts, rows = backbone.zero_shot(LABELS).numpy(), features.numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) @ texts.T


def answers(label: str, module: Module, models: tuple[Backbone, Backbone], **given: Any) -> Any:
    """A function of features on the target: predicted classes through the transfer."""
    source, target = models
    transfer = find_transfer(label)
    method = THRESHOLD(THRESHOLD.Config(per_class=len(module["threshold"]) > 1))
    if "unlabelled" in transfer.card.access:
        old, new = draw_features(source), draw_features(target, 2)
        logits = method.attach(module, source, LABELS)(old)
        seen = OldAnswers(logits, torch.zeros_like(logits))
        given = {"unlabelled": Unlabelled(old, new, new, seen, source.logit_scale)}
    data = TransferData(transfer, 1, **given)
    with torch.no_grad():
        classify = transfer.attach(method, module, target, LABELS, data)
    return lambda features: classify(features)


def expected_logits(target: Backbone, features: torch.Tensor, moved: np.ndarray) -> torch.Tensor:
    cosines = cosines_of(target, features)
    own = np.broadcast_to(moved, 5)[cosines.argmax(1)]
    return torch.tensor(float(target.logit_scale) * (cosines - own[:, None]))


def draw_module(source: Backbone, size: int) -> Module:
    scores = cosines_of(source, draw_features(source)).max(1)
    around = np.quantile(scores, np.linspace(0.2, 0.8, size) if size > 1 else [0.37])
    return Module({"threshold": torch.tensor(around + 1e-4)})


def quantile(threshold: float, old: np.ndarray, new: np.ndarray) -> float:
    """numpy's own quantile, at the share that is refused on the source."""
    return float(np.quantile(new, sum(score < threshold for score in old) / len(old)))


def zscore(threshold: float, old: np.ndarray, new: np.ndarray) -> float:
    return float((threshold - old.mean()) / old.std() * new.std() + new.mean())


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("move", [quantile, zscore])
def test_unlabelled_images_move_a_threshold(
    move: Any, size: int, models: tuple[Backbone, Backbone], beside_naive_code: Any
) -> None:
    source, target = models
    module = draw_module(source, size)
    old, new = (cosines_of(b, draw_features(b, s)) for b, s in ((source, 1), (target, 2)))
    moved = []
    for number, threshold in enumerate(module["threshold"].tolist()):
        rows = [each.argmax(1) == number for each in (old, new)]
        if size == 1 or min(of.sum() for of in rows) < 2:
            rows = [np.ones(COUNT, dtype=bool)] * 2
        moved.append(move(threshold, old[rows[0]].max(1), new[rows[1]].max(1)))
    features = draw_features(target, 5)
    found = answers(move.__name__, module, models)(features)
    name = f"{move.__name__}, {'one for each class' if size > 1 else 'one'}"
    beside_naive_code(name, found, expected_logits(target, features, np.array(moved)))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_the_quantile_answers_as_many_unlabelled_images_as_before(
    share: float, models: tuple[Backbone, Backbone]
) -> None:
    source, target = models
    scores = np.sort(cosines_of(source, draw_features(source)).max(1))
    refused = round(share * COUNT)
    module = Module({"threshold": torch.tensor([scores[refused] - 1e-9])})
    logits = answers("quantile", module, models)(draw_features(target, 2))
    assert int((predict(logits, refuses=True).classes < 0).sum()) == refused


@pytest.mark.parametrize("size", [1, 5])
def test_platt_s_fit_chooses_a_threshold_by_labelled_images(
    size: int, models: tuple[Backbone, Backbone], beside_naive_code: Any
) -> None:
    source, target = models
    features = draw_features(target, 3)
    cosines = cosines_of(target, features)
    scores, classes = cosines.max(1), cosines.argmax(1)
    # Wrong the more often, the lower the score.
    wrong = np.random.default_rng(4).random(COUNT) > (scores - scores.min()) / np.ptp(scores)
    targets = np.where(wrong, (classes + 1) % 5, classes)
    hits, misses = int((~wrong).sum()), int(wrong.sum())
    wanted = np.where(wrong, 1 / (misses + 2), (hits + 1) / (hits + 2))
    # Every image as a right one and as a wrong one, with these weights.
    fit = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12)
    fit.fit(np.tile(scores, 2)[:, None], np.arange(2 * COUNT) < COUNT, np.r_[wanted, 1 - wanted])
    chances = fit.predict_proba(scores[:, None])[:, 1]
    fitted = fit_chances(torch.tensor(scores), torch.tensor(~wrong))
    assert np.abs(fitted.numpy() - chances).max() < 1e-8

    def choose(rows: np.ndarray) -> float:
        tried = [(chances[rows & (scores >= s)].mean(), s) for s in scores[rows]]
        best = max(precision for precision, _ in tried)
        return min(s for precision, s in tried if precision >= min(0.9, best))

    every = np.ones(COUNT, dtype=bool)
    rows_of = [classes == c for c in range(5)] if size > 1 else [every]
    moved = np.array([choose(rows if rows.any() else every) for rows in rows_of])
    few = FeatureSet(features, features[None], torch.tensor(targets))
    data = FewShotData(LABELS, 12, few, few)
    module = draw_module(source, size)
    unseen = draw_features(target, 6)
    found = answers("platt+12", module, models, labels=data)(unseen)
    name = f"platt, {'one for each class' if size > 1 else 'one'}"
    beside_naive_code(name, found, expected_logits(target, unseen, moved))


@pytest.mark.parametrize(
    "right", [[True] * 4, [False] * 4, [True, True, False, False], [False, True, False, True]]
)
def test_platt_s_fit_is_finite_whatever_was_right(right: list[bool]) -> None:
    chances = fit_chances(torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.tensor(right))
    assert ((chances > 0) & (chances < 1)).all()
    alike = fit_chances(torch.full((4,), 0.3), torch.tensor(right))
    hits = sum(right)
    targets = [(hits + 1) / (hits + 2) if r else 1 / (4 - hits + 2) for r in right]
    assert alike.tolist() == pytest.approx([np.mean(targets)] * 4)


def test_the_lines_of_the_page_are_the_transfers_and_the_rule_of_the_method() -> None:
    page = (Path(__file__).parents[2] / "docs" / "thresholds.md").read_text(encoding="utf-8")
    lines: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], lines)
    rng = np.random.default_rng(1)
    old, new, right = rng.normal(0.3, 0.1, 50), rng.normal(0.5, 0.2, 50), rng.random(50) < 0.7
    for label, move in (("quantile", "move_by_share"), ("zscore", "move_by_spread")):
        by_transfer: Any = find_transfer(label)
        for threshold in (-1.0, 0.25, 0.3, 0.35):
            found = by_transfer.move(
                torch.tensor(threshold).double(), *map(torch.tensor, (old, new))
            )
            assert float(found) == pytest.approx(lines[move](threshold, old, new))
    for wanted in (0.5, 0.7, 0.9):
        found = choose_threshold(torch.tensor(new), torch.tensor(right), wanted)
        assert float(found) == lines["choose"](new, right, wanted)


@pytest.mark.parametrize("label", ["quantile", "zscore"])
def test_without_unlabelled_images_there_is_one_line(
    label: str, models: tuple[Backbone, Backbone]
) -> None:
    source, target = models
    none, nothing = torch.zeros(0, 16), torch.zeros(0, 5)
    images = Unlabelled(none, none, none, OldAnswers(nothing, nothing))
    transfer, method = find_transfer(label), THRESHOLD()
    data = TransferData(transfer, unlabelled=images)
    with pytest.raises(NotTransferable, match=r"^there are no unlabelled images"):
        transfer.attach(method, draw_module(source, 1), target, LABELS, data)


def test_a_transfer_takes_thresholds_only_if_it_says_so() -> None:
    serving = {
        name for name, cls in builtin_transfers().classes.items()
        if cls.serves(cls.__new__(cls), THRESHOLD.card)
    }  # fmt: skip
    assert serving == {"copied", "kept", "retrained", "quantile", "zscore", "platt"}
    taskres = builtin_methods().get("taskres").card
    with pytest.raises(CompatbenchError, match="takes modules that act at answer; those of"):
        find_transfer("quantile").require(taskres)
    with pytest.raises(CompatbenchError, match="those of 'threshold' act at answer: choose"):
        find_transfer("gated").require(THRESHOLD.card)
