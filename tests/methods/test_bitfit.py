"""BitFit: every bias b of the text tower becomes b + Δb."""

from __future__ import annotations

import copy

import pytest
import torch
from formulas import cosine_logits, cross_entropy, photo_texts
from tiny_models import tiny_clip, wrap
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import NotTransferable
from compatbench.method import FewShotData, Module
from compatbench.methods.bitfit import BitFit


def text_biases(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """All parameters of a text tower that are called a bias, found without the engine."""
    tower: torch.nn.Module = getattr(model, "text", model)  # type: ignore[assignment]
    return {
        name: parameter
        for name, parameter in tower.named_parameters()
        if name.endswith("bias") and not name.startswith("visual.")
    }


def random_module(backbone: Backbone) -> Module:
    generator = torch.Generator().manual_seed(1)
    return Module(
        {
            name: 0.3 * torch.randn(bias.shape, generator=generator, dtype=bias.dtype)
            for name, bias in text_biases(backbone.model).items()
        }
    )


def with_biases(backbone: Backbone, module: Module) -> Backbone:
    """A copy of the backbone whose biases have been overwritten, to be trained."""
    changed = wrap(copy.deepcopy(backbone.model), "changed")
    for name, bias in text_biases(changed.model).items():
        bias.data += module[name]
        bias.requires_grad_()
    return changed


def naive_logits(backbone: Backbone, labels: Labels, images: Tensor) -> Tensor:
    texts = photo_texts(backbone, labels)
    return cosine_logits(backbone, texts, images)


def test_logits_equal_those_of_a_model_whose_biases_were_overwritten(
    backbone64: Backbone, labels: Labels, images64: Tensor
) -> None:
    module = random_module(backbone64)
    logits = BitFit().attach(module, backbone64, labels)(images64)
    expected = naive_logits(with_biases(backbone64, module), labels, images64)
    torch.testing.assert_close(logits, expected.detach(), rtol=1e-9, atol=1e-9)


def test_the_first_step_follows_the_gradient_of_the_formula(
    float64: None, clip64: Backbone, data64: FewShotData
) -> None:
    """AdamW's first step is the sign of the gradient: lr · g / (|g| + ε)."""
    recipe = BitFit.Config().recipe.model_copy(update={"warmup_epochs": 0, "eps": 0.1})
    method = BitFit(BitFit.Config(recipe=recipe, max_steps=1))
    found = method.fit(clip64, data64, torch.Generator())

    start = method.init(clip64, data64, torch.Generator())
    changed = with_biases(clip64, start)
    logits = naive_logits(changed, data64.labels, data64.train.views[0])
    biases = text_biases(changed.model)
    loss = cross_entropy(logits, data64.train.targets)
    gradients = torch.autograd.grad(loss, list(biases.values()))
    assert found.trained.keys() == biases.keys()
    for name, gradient in zip(biases, gradients, strict=True):
        expected = -1e-3 * gradient / (gradient.abs() + 0.1)
        assert expected.abs().max() > 1e-8, name
        torch.testing.assert_close(found[name], expected, rtol=1e-8, atol=1e-12)


def test_the_module_is_a_difference_for_every_bias_of_the_text_tower(
    clip: Backbone, data: FewShotData
) -> None:
    module = BitFit(BitFit.Config(max_steps=2)).fit(clip, data, torch.Generator())
    biases = text_biases(clip.model)
    assert {name: t.shape for name, t in module.trained.items()} == {
        name: bias.shape for name, bias in biases.items()
    }
    assert module.stored == {}
    assert max(float(t.abs().max()) for t in module.trained.values()) < 0.01


def test_a_shallower_tower_is_refused(clip64: Backbone, labels: Labels) -> None:
    shallower = wrap(tiny_clip(layers=2), "shallower")
    with pytest.raises(NotTransferable, match=r"has no 'transformer.resblocks.2.*bias'"):
        BitFit().attach(random_module(clip64), shallower, labels)


def test_a_wider_tower_is_refused(clip: Backbone, wider_text: Backbone, labels: Labels) -> None:
    with pytest.raises(NotTransferable, match=r"'transformer.resblocks.0.*' of size 32, not 48"):
        BitFit().attach(random_module(clip), wider_text, labels)
