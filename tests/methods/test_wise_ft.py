"""WiSE-FT: the average of the zero-shot head (s W_0, 0) and the fine-tuned head (W_1, b_1)."""

from __future__ import annotations

import pytest
import torch
from formulas import photo_texts, unit
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module
from compatbench.methods.wise_ft import WiSEFT


def zero_shot_head(backbone: Backbone, labels: Labels) -> Tensor:
    scale = backbone.model.logit_scale.exp()  # type: ignore[operator, union-attr]
    texts = photo_texts(backbone, labels)
    return scale * unit(texts)


def naive_loss(head: Tensor, bias: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    losses = []
    for f, y in zip(unit(images), targets, strict=True):
        logits = torch.stack([f.dot(w) + b for w, b in zip(head, bias, strict=True)])
        losses.append(logits.logsumexp(0) - logits[y])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("alpha", [0.5, 0.2, 1.0])
def test_the_module_is_alpha_times_one_step_of_fine_tuning(
    float64: None, clip64: Backbone, data64: FewShotData, images64: Tensor, alpha: float
) -> None:
    """AdamW's first step moves each number by lr · g / (|g| + ε)."""
    recipe = WiSEFT.Config().recipe.model_copy(update={"lr": 0.1, "eps": 0.01})
    method = WiSEFT(WiSEFT.Config(recipe=recipe, max_steps=1, alpha=alpha))
    module = method.fit(clip64, data64, torch.Generator())

    train, start = data64.train, zero_shot_head(clip64, data64.labels)
    head, bias = start.clone().requires_grad_(), torch.zeros(5, requires_grad=True)
    loss = naive_loss(head, bias, train.views[0], train.targets)
    slope, bias_slope = torch.autograd.grad(loss, [head, bias])
    tuned = (head - 0.1 * slope / (slope.abs() + 0.01)).detach()
    tuned_bias = (bias - 0.1 * bias_slope / (bias_slope.abs() + 0.01)).detach()
    averaged = (1 - alpha) * start + alpha * tuned
    assert (averaged - start).abs().max() > 0.01

    logits = method.attach(module, clip64, data64.labels)(images64)
    expected = unit(images64) @ averaged.T + alpha * tuned_bias
    torch.testing.assert_close(logits, expected, rtol=1e-8, atol=1e-9)


def test_on_another_backbone_that_backbone_s_head_is_averaged(
    eva64: Backbone, labels: Labels, images64: Tensor
) -> None:
    generator = torch.Generator().manual_seed(1)
    residual = torch.randn(5, 16, generator=generator).double()
    bias = torch.randn(5, generator=generator).double()
    logits = WiSEFT().attach(Module({"weight": residual, "bias": bias}), eva64, labels)(images64)
    expected = unit(images64) @ (zero_shot_head(eva64, labels) + residual).T + bias
    torch.testing.assert_close(logits, expected, rtol=1e-8, atol=1e-8)


def test_the_average_of_heads_is_the_average_of_logits(
    clip: Backbone, data: FewShotData, images: Tensor
) -> None:
    """A linear classifier's ensemble in weights is one in outputs."""

    def logits(alpha: float) -> Tensor:
        method = WiSEFT(WiSEFT.Config(alpha=alpha, max_steps=5))
        module = method.fit(clip, data, torch.Generator().manual_seed(1))
        return method.attach(module, clip, data.labels)(images)

    torch.testing.assert_close(logits(0.5), (logits(0.0) + logits(1.0)) / 2, rtol=1e-4, atol=1e-4)
