"""CoCoOp: v_m(x) = v_m + W₂ ReLU(W₁ f̂ + b₁) + b₂; every image has class weights of its own."""

from __future__ import annotations

import pytest
import torch
from formulas import check_first_step, cosine_logits, cross_entropy
from open_clip_reference import encode_contexts
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import NotTransferable
from compatbench.method import FewShotData, Module
from compatbench.methods.cocoop import CoCoOp

SHAPES = {"context": (4, 32), "down": (2, 16), "down_bias": (2,), "up": (32, 2), "up_bias": (32,)}


def random_module() -> Module:
    generator = torch.Generator().manual_seed(1)
    return Module(
        {
            name: 0.3 * torch.randn(shape, generator=generator).double()
            for name, shape in SHAPES.items()
        }
    )


def naive_logits(
    backbone: Backbone, labels: Labels, parameters: dict[str, Tensor], images: Tensor
) -> Tensor:
    rows = []
    for f in images:
        unit = f / f.norm()
        hidden = torch.clamp(parameters["down"] @ unit + parameters["down_bias"], min=0)
        shift = parameters["up"] @ hidden + parameters["up_bias"]
        texts = encode_contexts(backbone, labels.names, parameters["context"] + shift)
        rows.append(cosine_logits(backbone, texts, f[None])[0])
    return torch.stack(rows)


def test_logits_equal_the_formula(backbone64: Backbone, labels: Labels, images64: Tensor) -> None:
    module = random_module()
    logits = CoCoOp().attach(module, backbone64, labels)(images64)
    expected = naive_logits(backbone64, labels, module.trained, images64)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_first_step_follows_the_gradient_of_the_formula(
    float64: None, clip64: Backbone, data64: FewShotData, batch_size: int
) -> None:
    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(naive_logits(clip64, data64.labels, parameters, images), targets)

    recipe = {"warmup_epochs": 0, "lr": 0.1, "batch_size": batch_size}
    # A wider bottleneck, so that no step finds all its units off.
    check_first_step(CoCoOp, clip64, data64, loss, recipe=recipe, reduction=1)


def test_the_direction_of_an_image_counts_and_not_its_length(
    clip64: Backbone, labels: Labels, images64: Tensor
) -> None:
    classify = CoCoOp().attach(random_module(), clip64, labels)
    torch.testing.assert_close(classify(5 * images64), classify(images64), rtol=1e-9, atol=1e-9)


def test_the_network_starts_as_linear_layers_do(b16_sized: Backbone, data: FewShotData) -> None:
    module = CoCoOp().init(b16_sized, data, torch.Generator().manual_seed(0))
    assert module.parameters == 2_048 + 33_312
    for name, fan_in in (("down", 512), ("down_bias", 512), ("up", 32), ("up_bias", 32)):
        bound = fan_in**-0.5
        assert module[name].abs().max() <= bound
        assert module[name].std() == pytest.approx(bound / 3**0.5, rel=0.25)


def test_another_size_of_the_joint_space_is_refused(wider_joint: Backbone, labels: Labels) -> None:
    with pytest.raises(NotTransferable, match="image features of size 16, not 24"):
        CoCoOp().attach(random_module(), wider_joint, labels)


@pytest.mark.parametrize("setting", [{"position": "middle"}, {"class_specific": True}])
def test_settings_that_mean_nothing_here_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        CoCoOp.Config.model_validate(setting)


def test_no_images_have_no_logits(clip64: Backbone, labels: Labels, images64: Tensor) -> None:
    assert CoCoOp().attach(random_module(), clip64, labels)(images64[:0]).shape == (0, 5)
