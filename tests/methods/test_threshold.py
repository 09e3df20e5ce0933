"""Thresholds on cosines, each against a naive loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from formulas import close, make, seeded, unit, unit_texts
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.extras.check.method_under_test import relabel
from compatbench.method import Module, read_settings
from compatbench.method.predictions import predict
from compatbench.methods.threshold import Threshold, choose_threshold

SHARES = st.sampled_from([0.25, 0.5, 2 / 3, 0.9, 1.0])
IMAGES = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=12)


def naive_threshold(scores: list[float], right: list[bool], wanted: float) -> float:
    """Every score is tried: the least that reaches it, or else the most precise."""
    tried = []
    for score in scores:
        answered = [r for s, r in zip(scores, right, strict=True) if s >= score]
        tried.append((sum(answered) / len(answered), score))
    reached = [score for precision, score in tried if precision >= wanted]
    best = max(precision for precision, _ in tried)
    return min(reached or [score for precision, score in tried if precision == best])


@given(IMAGES, SHARES)
def test_the_least_score_is_taken_that_is_precise_enough(
    images: list[tuple[int, bool]], wanted: float
) -> None:
    scores, right = [score / 8 for score, _ in images], [r for _, r in images]
    found = choose_threshold(torch.tensor(scores), torch.tensor(right), wanted)
    assert float(found) == naive_threshold(scores, right, wanted)


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("wanted", [0.5, 0.9])
def test_thresholds_are_of_the_few_shot_images(
    clip64: Backbone, few: MakeData, per_class: bool, wanted: float
) -> None:
    data = few(shots=[9, 7, 3, 1, 5])
    method = make("threshold", precision=wanted, per_class=per_class)
    found = method.fit(clip64, data, torch.Generator())["threshold"]
    cosines = (unit(data.train.plain) @ unit_texts(clip64, data.labels).T).numpy()
    classes, truth = cosines.argmax(1), data.train.targets.numpy()
    assert len({*classes.tolist()}) > 1

    def chosen(rows: np.ndarray) -> float:
        some = [cosines[i].max() for i in rows], [bool(classes[i] == truth[i]) for i in rows]
        return naive_threshold(*some, wanted)

    whole = chosen(np.arange(len(truth)))
    by_class = [
        chosen(rows) if len(rows := np.flatnonzero(classes == c)) else whole for c in range(5)
    ]
    close(found, torch.tensor(by_class if per_class else [whole], dtype=torch.float64))


@pytest.mark.parametrize("per_class", [False, True])
def test_an_image_is_refused_below_the_threshold_of_its_best_class(
    clip64: Backbone, labels: Labels, images64: Tensor, per_class: bool
) -> None:
    images = torch.cat([images64, 3 * torch.randn(40, 16, generator=seeded(3)).double()])
    cosines = unit(images) @ unit_texts(clip64, labels).T
    best = cosines.amax(1).median()
    threshold = best + 0.1 * torch.randn(5 if per_class else 1, generator=seeded(4)).double()
    module = Module({"threshold": threshold})
    logits = make("threshold", per_class=per_class).attach(module, clip64, labels)(images)
    expected = [
        int(row.argmax()) if row.max() >= threshold[row.argmax() if per_class else 0] else -1
        for row in cosines
    ]
    assert {-1} < {*expected}
    assert predict(logits, refuses=True).classes.tolist() == expected
    # Which class is the best, and how sure it is, is zero-shot's.
    plain = predict(clip64.logit_scale * cosines)
    assert torch.equal(predict(logits).classes, plain.classes)
    close(predict(logits).confidence, plain.confidence)


def test_a_threshold_for_each_class_is_not_attached_to_other_classes(
    clip64: Backbone, labels: Labels
) -> None:
    fewer = relabel(labels.names[:3])
    module = Module({"threshold": torch.zeros(5).double()})
    with pytest.raises(NotTransferable, match="a number of classes of 5, not 3"):
        make("threshold", per_class=True).attach(module, clip64, fewer)
    make("threshold").attach(Module({"threshold": torch.zeros(1).double()}), clip64, fewer)


@pytest.mark.parametrize("wanted", [0, -0.1, 1.01, 90, "most"])
def test_a_precision_that_is_no_share_is_refused_in_one_line(wanted: object) -> None:
    with pytest.raises(CompatbenchError, match=r"^setting 'precision' of method 'threshold': .+$"):
        read_settings(Threshold.Config, {"precision": wanted}, "method 'threshold'")
