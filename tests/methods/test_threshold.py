"""Thresholds on cosines, each against a naive loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from formulas import Fit, FitInputs, Tensors, close, fit_test, make, seeded, unit, unit_texts
from hypothesis import given
from hypothesis import strategies as st
from threshold_page import LINES
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import Module
from compatbench.method.predictions import predict
from compatbench.methods.threshold import choose_threshold

SHARES = st.sampled_from([0.25, 0.5, 2 / 3, 0.9, 1.0])
IMAGES = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=12)


@given(IMAGES, SHARES)
def test_the_least_score_is_taken_that_is_precise_enough(
    images: list[tuple[int, bool]], wanted: float
) -> None:
    scores, right = [score / 8 for score, _ in images], [r for _, r in images]
    found = choose_threshold(torch.tensor(scores), torch.tensor(right), wanted)
    assert float(found) == LINES["choose"](np.array(scores), np.array(right), wanted)


def thresholds(of: FitInputs) -> Tensors:
    """Those of the few-shot images, of all of them or of each predicted class."""
    scores, classes = (unit(of.data.train.plain) @ of.texts.T).max(1)
    assert len(classes.unique()) > 1

    def chosen(rows: Tensor) -> float:
        right = (classes == of.owners)[rows].numpy()
        return float(LINES["choose"](scores[rows].numpy(), right, of.settings["precision"]))

    whole = chosen(scores > -1)
    found = [chosen(classes == c) if (classes == c).any() else whole for c in range(5)]
    return {"threshold": torch.tensor(found if of.settings["per_class"] else [whole])}


test_fits_equal_their_formulas = fit_test(
    [
        Fit("threshold", thresholds, {"precision": wanted, "per_class": own}, (9, 7, 3, 1, 5))
        for wanted in (0.5, 0.9)
        for own in (False, True)
    ]
)


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
