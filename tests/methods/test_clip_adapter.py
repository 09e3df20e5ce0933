"""CLIP-Adapter: f' = α ReLU(A_2 ReLU(A_1 f)) + (1 − α) f, f as it leaves the tower."""

from __future__ import annotations

import math

import pytest
import torch
from formulas import check_first_step, cross_entropy, photo_texts
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module
from compatbench.methods.clip_adapter import CLIPAdapter


def random_module() -> Module:
    generator = torch.Generator().manual_seed(1)
    return Module(
        {
            "down": torch.randn(4, 16, generator=generator).double(),
            "up": torch.randn(16, 4, generator=generator).double(),
        }
    )


def naive_logits(
    backbone: Backbone, labels: Labels, down: Tensor, up: Tensor, ratio: float, images: Tensor
) -> Tensor:
    scale = backbone.model.logit_scale.exp()  # type: ignore[operator, union-attr]
    texts = photo_texts(backbone, labels)
    rows = []
    for f in images:
        hidden = torch.stack([torch.clamp(w.dot(f), min=0) for w in down])
        adapted = torch.stack([torch.clamp(w.dot(hidden), min=0) for w in up])
        mixed = ratio * adapted + (1 - ratio) * f
        rows.append(torch.stack([scale * mixed.dot(t) / (mixed.norm() * t.norm()) for t in texts]))
    return torch.stack(rows)


@pytest.mark.parametrize("ratio", [0.2, 0.6, 1.0])
def test_logits_equal_the_formula(
    backbone64: Backbone, labels: Labels, images64: Tensor, ratio: float
) -> None:
    module = random_module()
    method = CLIPAdapter(CLIPAdapter.Config(ratio=ratio))
    logits = method.attach(module, backbone64, labels)(images64)
    expected = naive_logits(backbone64, labels, module["down"], module["up"], ratio, images64)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


def test_the_first_step_follows_the_gradient_of_the_formula(
    float64: None, clip64: Backbone, data64: FewShotData
) -> None:
    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        down, up = parameters["down"], parameters["up"]
        return cross_entropy(naive_logits(clip64, data64.labels, down, up, 0.2, images), targets)

    check_first_step(CLIPAdapter, clip64, data64, loss)


def test_the_adapter_sees_the_length_of_a_feature(
    clip64: Backbone, labels: Labels, images64: Tensor
) -> None:
    """Both layers are positively homogeneous, so scaling f changes nothing but rounding."""
    classifier = CLIPAdapter().attach(random_module(), clip64, labels)
    torch.testing.assert_close(classifier(images64), classifier(2 * images64))


def test_initialisation_is_that_of_a_linear_layer(b16_sized: Backbone, data: FewShotData) -> None:
    module = CLIPAdapter().init(b16_sized, data, torch.Generator().manual_seed(0))
    for name, shape in (("down", (128, 512)), ("up", (512, 128))):
        bound = 1 / math.sqrt(shape[1])
        assert module[name].shape == shape
        assert module[name].abs().max() <= bound
        assert module[name].abs().max() > 0.99 * bound
        assert module[name].std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
