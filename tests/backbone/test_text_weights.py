"""The text tower with other weights: what open_clip computes after writing them into the model."""

from __future__ import annotations

import copy

import pytest
import torch
from open_clip_reference import encode_texts, text_tower
from tiny_models import tiny_clip, wrap
from torch import Tensor

from compatbench.backbone import Backbone, memory_budget
from compatbench.errors import CompatbenchError

TEXTS = tuple(
    f"a photo of a {name}."
    for name in ("xylophone", "dog", "a very old small blue boat", "fire engine", "tree")
)


def perturb(weights: dict[str, Tensor], names: set[str] | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    noise = {n: 0.2 * torch.randn(w.shape, generator=generator) for n, w in weights.items()}
    return {name: (weights[name] + noise[name]).requires_grad_() for name in names or weights}


def assert_same_as_written(backbone: Backbone, weights: dict[str, Tensor]) -> None:
    """The same as after writing the weights into the model."""
    found = backbone.encode_prompts(backbone.text_prompts(TEXTS), weights)
    other = wrap(copy.deepcopy(backbone.model), "other")
    parameters = dict(text_tower(other).named_parameters())
    for name, tensor in weights.items():
        parameters[name].data = tensor.detach()
        parameters[name].requires_grad_()
    expected = encode_texts(other, TEXTS)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    factor = torch.randn(expected.shape, generator=torch.Generator().manual_seed(4)).double()
    gradients = torch.autograd.grad((factor * found).sin().sum(), list(weights.values()))
    wanted = torch.autograd.grad(
        (factor * expected).sin().sum(), [parameters[name] for name in weights]
    )
    torch.testing.assert_close(gradients, wanted, rtol=1e-8, atol=1e-8)
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_all_weights_behind_the_embeddings_have_open_clips_names(backbone: Backbone) -> None:
    parameters = dict(text_tower(backbone).named_parameters())
    behind = {
        name
        for name in parameters
        if name.startswith(("transformer.", "ln_final.", "text_projection"))
    }
    assert backbone.text.weights.keys() == behind
    for name, weight in backbone.text.weights.items():
        assert torch.equal(weight, parameters[name])
        assert not weight.requires_grad


@pytest.mark.parametrize(
    "name",
    [
        None,  # all
        "transformer.resblocks.1.attn.in_proj_weight",
        "transformer.resblocks.2.mlp.c_fc.bias",
        "text_projection",
    ],
)
def test_a_tower_with_weights_replaced(backbone64: Backbone, name: str | None) -> None:
    assert_same_as_written(backbone64, perturb(backbone64.text.weights, {name} if name else None))


@pytest.mark.parametrize(
    "kind",
    [dict(no_causal_mask=True), dict(qk_norm=True), dict(proj_bias=True), dict(ls_init_value=0.5)],
    ids=str,
)
def test_a_tower_of_another_kind(kind: dict[str, object]) -> None:
    backbone = wrap(tiny_clip(**kind).double(), "other")
    assert_same_as_written(backbone, perturb(backbone.text.weights))


def test_what_does_not_fit_the_budget_is_computed_again_with_the_same_weights(
    clip64: Backbone,
) -> None:
    weights = perturb(clip64.text.weights)
    with memory_budget(0):
        assert_same_as_written(clip64, weights)
        # Other weights in between must not be what is computed again.
        first = clip64.encode_prompts(clip64.text_prompts(TEXTS), weights).sin().sum()
        clip64.encode_prompts(clip64.text_prompts(TEXTS), perturb(weights))
        again = torch.autograd.grad(first, list(weights.values()))
    with memory_budget(2**40):
        kept = clip64.encode_prompts(clip64.text_prompts(TEXTS), weights).sin().sum()
        expected = torch.autograd.grad(kept, list(weights.values()))
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


def test_the_model_is_left_as_it_was(clip: Backbone) -> None:
    before = copy.deepcopy(clip.model.state_dict())
    features = clip.text_features(TEXTS)
    weights = perturb(clip.text.weights)
    clip.encode_prompts(clip.text_prompts(TEXTS), weights).sum().backward()
    assert all(torch.equal(before[name], t) for name, t in clip.model.state_dict().items())
    assert all(parameter.grad is None for parameter in clip.model.parameters())
    assert torch.equal(clip.encode_prompts(clip.text_prompts(TEXTS)), features)


def test_unknown_weights_are_refused(clip: Backbone) -> None:
    prompts = clip.text_prompts(TEXTS)
    with pytest.raises(CompatbenchError, match=r"no weight 'transformer.resblocks.7.ln_1.bias'"):
        clip.encode_prompts(prompts, {"transformer.resblocks.7.ln_1.bias": torch.zeros(32)})
    with pytest.raises(CompatbenchError, match=r"'ln_final.bias' has shape \[32\], not \[48\]"):
        clip.encode_prompts(prompts, {"ln_final.bias": torch.zeros(48)})
