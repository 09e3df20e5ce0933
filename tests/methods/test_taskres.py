"""TaskRes: w_c = t_c + α x_c, t not normalised, x learned from zero."""

from __future__ import annotations

import pytest
import torch
from formulas import check_first_step, cross_entropy
from open_clip_reference import encode_texts
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module
from compatbench.methods.taskres import TaskRes
from compatbench.methods.zeroshot import ZeroShot


def naive_logits(
    backbone: Backbone, labels: Labels, residual: Tensor, alpha: float, images: Tensor
) -> Tensor:
    scale = backbone.model.logit_scale.exp()  # type: ignore[operator, union-attr]
    columns = []
    for x, name in zip(residual, labels.names, strict=True):
        w = encode_texts(backbone, [f"a photo of a {name}."])[0] + alpha * x
        columns.append(torch.stack([scale * f.dot(w) / (f.norm() * w.norm()) for f in images]))
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_logits_equal_the_formula(
    backbone64: Backbone, labels: Labels, images64: Tensor, alpha: float
) -> None:
    residual = torch.randn(5, 16, generator=torch.Generator().manual_seed(1)).double()
    method = TaskRes(TaskRes.Config(alpha=alpha))
    logits = method.attach(Module({"residual": residual}), backbone64, labels)(images64)
    expected = naive_logits(backbone64, labels, residual, alpha, images64)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


def test_the_first_step_follows_the_gradient_of_the_formula(
    float64: None, clip64: Backbone, data64: FewShotData
) -> None:
    """The first step of Adam moves each number by lr · g / (|g| + ε); the decay of zero is zero."""

    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        residual = parameters["residual"]
        return cross_entropy(naive_logits(clip64, data64.labels, residual, 0.5, images), targets)

    def update(x: Tensor, gradient: Tensor) -> Tensor:
        return x - 0.1 * gradient / (gradient.abs() + 0.01)

    start, recipe = {"residual": torch.zeros(5, 16)}, {"warmup_epochs": 0, "lr": 0.1, "eps": 0.01}
    check_first_step(TaskRes, clip64, data64, loss, update, recipe=recipe, start=start)


def test_the_base_on_another_backbone_is_that_backbone_s(
    eva: Backbone, clip: Backbone, data: FewShotData, images: Tensor
) -> None:
    """Carrying the source's text features along would make both classifiers the same."""
    module = TaskRes(TaskRes.Config(max_steps=2)).fit(clip, data, torch.Generator())
    on_source = TaskRes().attach(module, clip, data.labels)(images)
    on_target = TaskRes().attach(module, eva, data.labels)(images)
    zero_shot = ZeroShot().attach(Module(), eva, data.labels)(images)
    assert (on_target - zero_shot).abs().max() < (on_target - on_source).abs().max() / 5
