"""Ways of moving a threshold, each beside naive numpy code."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from threshold_page import LINES

from compatbench.backbone import Backbone
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.extras.check.method_under_test import LABELS, MethodUnderTest
from compatbench.extras.check.models import wrap
from compatbench.method import FeatureSet, FewShotData, Module
from compatbench.method.predictions import predict
from compatbench.method.registry import builtin_methods, builtin_transfers, find_transfer
from compatbench.method.transfer import OldAnswers, TransferData, Unlabelled
from compatbench.transfers.platt import fit_chances

THRESHOLD: Any = builtin_methods().get("threshold")
COUNT = 60  # images


SOURCE, TARGET = (
    wrap(copy.deepcopy(each.model).double(), each.name)
    for each in (MethodUnderTest(THRESHOLD).source, MethodUnderTest(THRESHOLD).target)
)


def draw_features(backbone: Backbone, seed: int = 1) -> torch.Tensor:
    """Features near those of classes, ``[N, e]``, each class with images."""
    rng = np.random.default_rng(seed)
    texts = backbone.zero_shot(LABELS).numpy()[rng.integers(0, 5, COUNT)]
    return torch.tensor(texts + rng.normal(0, 0.4, texts.shape) * np.abs(texts).mean())


def cosines_of(backbone: Backbone, features: torch.Tensor) -> np.ndarray:
    texts, rows = backbone.zero_shot(LABELS).numpy(), features.numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) @ texts.T


def answers(label: str, module: Module, features: torch.Tensor, **given: Any) -> torch.Tensor:
    """Logits of features on the target, through the transfer."""
    transfer = find_transfer(label)
    method = THRESHOLD(THRESHOLD.Config(per_class=len(module["threshold"]) > 1))
    if "unlabelled" in transfer.card.access:
        old, new = draw_features(SOURCE), draw_features(TARGET, 2)
        logits = method.attach(module, SOURCE, LABELS)(old)
        seen = OldAnswers(logits, torch.zeros_like(logits))
        given = {"unlabelled": Unlabelled(old, new, new, seen, SOURCE.logit_scale)}
    data = TransferData(transfer, 1, **given)
    with torch.no_grad():
        return transfer.attach(method, module, TARGET, LABELS, data)(features)


def expected_logits(features: torch.Tensor, moved: np.ndarray) -> torch.Tensor:
    cosines = cosines_of(TARGET, features)
    own = np.broadcast_to(moved, 5)[cosines.argmax(1)]
    return torch.tensor(float(TARGET.logit_scale) * (cosines - own[:, None]))


def draw_module(size: int) -> Module:
    scores = cosines_of(SOURCE, draw_features(SOURCE)).max(1)
    around = np.quantile(scores, np.linspace(0.2, 0.8, size) if size > 1 else [0.37])
    return Module({"threshold": torch.tensor(around + 1e-4)})


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize(
    ("label", "line"), [("quantile", "move_by_share"), ("zscore", "move_by_spread")]
)
def test_unlabelled_images_move_a_threshold(
    label: str, line: str, size: int, beside_naive_code: Any
) -> None:
    module = draw_module(size)
    old, new = (cosines_of(b, draw_features(b, s)) for b, s in ((SOURCE, 1), (TARGET, 2)))
    moved = []
    for number, threshold in enumerate(module["threshold"].tolist()):
        rows = [each.argmax(1) == number for each in (old, new)]
        if size == 1 or min(of.sum() for of in rows) < 2:
            rows = [np.ones(COUNT, dtype=bool)] * 2
        moved.append(LINES[line](threshold, old[rows[0]].max(1), new[rows[1]].max(1)))
    features = draw_features(TARGET, 5)
    found = answers(label, module, features)
    name = f"{label}, {'one for each class' if size > 1 else 'one'}"
    beside_naive_code(name, found, expected_logits(features, np.array(moved)))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_the_quantile_answers_as_many_unlabelled_images_as_before(share: float) -> None:
    scores = np.sort(cosines_of(SOURCE, draw_features(SOURCE)).max(1))
    refused = round(share * COUNT)
    module = Module({"threshold": torch.tensor([scores[refused] - 1e-9])})
    logits = answers("quantile", module, draw_features(TARGET, 2))
    assert int((predict(logits, refuses=True).classes < 0).sum()) == refused


@pytest.mark.parametrize("size", [1, 5])
def test_platt_s_fit_chooses_a_threshold_by_labelled_images(
    size: int, beside_naive_code: Any
) -> None:
    features = draw_features(TARGET, 3)
    cosines = cosines_of(TARGET, features)
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

    every = np.ones(COUNT, dtype=bool)
    rows_of = [classes == c for c in range(5)] if size > 1 else [every]
    rows_of = [rows if rows.any() else every for rows in rows_of]
    moved = np.array([LINES["choose"](scores[rows], chances[rows]) for rows in rows_of])
    few = FeatureSet(features, features[None], torch.tensor(targets))
    data = FewShotData(LABELS, 12, few, few)
    module = draw_module(size)
    unseen = draw_features(TARGET, 6)
    found = answers("platt+12", module, unseen, labels=data)
    name = f"platt, {'one for each class' if size > 1 else 'one'}"
    beside_naive_code(name, found, expected_logits(unseen, moved))


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


@pytest.mark.parametrize("label", ["quantile", "zscore"])
def test_without_unlabelled_images_there_is_one_line(label: str) -> None:
    none, nothing = torch.zeros(0, 16), torch.zeros(0, 5)
    images = Unlabelled(none, none, none, OldAnswers(nothing, nothing))
    transfer, method = find_transfer(label), THRESHOLD()
    data = TransferData(transfer, unlabelled=images)
    with pytest.raises(NotTransferable, match=r"^there are no unlabelled images"):
        transfer.attach(method, draw_module(1), TARGET, LABELS, data)


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
        find_transfer("words").require(THRESHOLD.card)
