"""ZS-LP: z = s · cos(f, w), w learned from the text features."""

from __future__ import annotations

import pytest
import torch
from formulas import cosine_logits, photo_texts
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module
from compatbench.methods.zeroshot import ZeroShot
from compatbench.methods.zs_lp import ZSLP


def test_logits_equal_the_formula(backbone64: Backbone, labels: Labels, images64: Tensor) -> None:
    weights = torch.randn(5, 16, generator=torch.Generator().manual_seed(1)).double()
    logits = ZSLP().attach(Module({"weights": weights}), backbone64, labels)(images64)
    expected = cosine_logits(backbone64, weights, images64)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


def test_a_residual_is_added_to_the_backbone_s_own_text(
    backbone64: Backbone, labels: Labels, images64: Tensor
) -> None:
    residual = torch.randn(5, 16, generator=torch.Generator().manual_seed(1)).double()
    method = ZSLP(ZSLP.Config(stores="residual"))
    logits = method.attach(Module({"residual": residual}), backbone64, labels)(images64)
    expected = cosine_logits(backbone64, photo_texts(backbone64, labels) + residual, images64)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stores", ["weights", "residual"])
def test_it_starts_at_zero_shot(
    backbone: Backbone, data: FewShotData, images: Tensor, stores: str
) -> None:
    method = ZSLP(ZSLP.Config.model_validate({"stores": stores}))
    module = method.init(backbone, data, torch.Generator())
    logits = method.attach(module, backbone, data.labels)(images)
    zero_shot = ZeroShot().attach(Module(), backbone, data.labels)(images)
    torch.testing.assert_close(logits, zero_shot)


def test_two_steps_follow_the_gradient_of_the_formula(
    float64: None, clip64: Backbone, data64: FewShotData
) -> None:
    """The first epoch's view at the warm-up rate, then the second's at the base rate."""
    recipe = ZSLP.Config().recipe.model_copy(update={"warmup_lr": 0.05})
    method = ZSLP(ZSLP.Config(recipe=recipe, max_steps=2))
    found = method.fit(clip64, data64, torch.Generator())["weights"]

    weights, velocity = photo_texts(clip64, data64.labels), torch.zeros(5, 16)
    for view, rate in zip(data64.train.views, (0.05, 0.1), strict=True):
        weights = weights.detach().requires_grad_()
        logits = cosine_logits(clip64, weights, view)
        losses = [r.logsumexp(0) - r[y] for r, y in zip(logits, data64.train.targets, strict=True)]
        (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), weights)
        velocity = 0.9 * velocity + gradient
        weights = weights - rate * velocity
    assert (found - photo_texts(clip64, data64.labels)).abs().max() > 1e-3
    torch.testing.assert_close(found, weights.detach(), rtol=1e-9, atol=1e-11)


def test_what_is_stored_decides_the_transfer_and_not_the_source(
    clip64: Backbone, eva64: Backbone, data64: FewShotData, images64: Tensor
) -> None:
    whole = ZSLP(ZSLP.Config(max_steps=20))
    part = ZSLP(ZSLP.Config(max_steps=20, stores="residual"))
    logits = {}
    for name, method in (("whole", whole), ("part", part)):
        module = method.fit(clip64, data64, torch.Generator().manual_seed(1))
        for backbone in (clip64, eva64):
            classify = method.attach(module, backbone, data64.labels)
            logits[name, backbone.name] = classify(images64)
    source, target = clip64.name, eva64.name
    torch.testing.assert_close(logits["whole", source], logits["part", source])
    assert (logits["whole", target] - logits["part", target]).abs().max() > 0.1
