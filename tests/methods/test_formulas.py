"""The classifier of every method, and the first step of its fit, against its formula."""

from __future__ import annotations

import pytest
import test_caches
import test_contexts
import test_heads
import test_newer_towers
import test_plot
import test_probes
import test_towers
from formulas import Formula
from image_reference import draw_images, few_shots
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.method import FewShotData, Method

FORMULAS: dict[str, Formula] = {
    **(test_caches.FORMULAS | test_contexts.FORMULAS | test_heads.FORMULAS),
    **test_newer_towers.FORMULAS,
    **(test_plot.FORMULAS | test_probes.FORMULAS | test_towers.FORMULAS),
}
STEPS: dict[str, Formula] = {
    **(test_caches.STEPS | test_contexts.STEPS | test_heads.STEPS),
    **test_newer_towers.STEPS,
    **(test_plot.STEPS | test_towers.STEPS),
}


def takes_features(formula: Formula) -> bool:
    return formula.method.image_input is Method.image_input


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_logits_equal_the_formula(
    backbone64: Backbone, data64: FewShotData, images64: Tensor, formula: Formula
) -> None:
    if takes_features(formula):
        formula.check_logits(backbone64, data64, images64)
        return
    wanted, images = formula.build().image_input(backbone64), draw_images(backbone64, 4)
    data, _ = few_shots(backbone64, data64.labels, wanted)
    formula.check_logits(backbone64, data, backbone64.encode_images(images, wanted), images)


@pytest.mark.parametrize("formula", STEPS.values(), ids=STEPS)
def test_the_first_step_follows_the_gradient_of_the_formula(
    float64: None, clip64: Backbone, data64: FewShotData, formula: Formula
) -> None:
    if takes_features(formula):
        formula.check_first_step(clip64, data64)
        return
    data, views = few_shots(clip64, data64.labels, formula.build().image_input(clip64))
    formula.check_first_step(clip64, data, views[0])
