"""The text tower's fast path computes what open_clip computes: features and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip_reference import encode_contexts, encode_texts, run_tower
from tiny_models import CONTEXT_LENGTH, tiny_clip, wrap
from torch import Tensor, nn

from compatbench.backbone import Backbone, Labels, Prompts
from compatbench.backbone.text.tower import TextTower
from compatbench.errors import CompatbenchError

# 1 to 8 tokens, in no order, with repeated lengths.
RAGGED = (
    "xylophone",
    "dog",
    "a very old small blue boat and dog",
    "fire engine",
    "hippopotamus",
    "tree",
    "red fire engine dog",
    "red apple",
    "a very old small blue boat",
)
NAMES = {
    "ragged": RAGGED,
    "one class": ("hippopotamus",),
    "many of one length": ("dog", "tree", "cat", "umbrella") * 8,
    "punctuation": ("left-right arrow", "ice-cream (soft)", "Zürich, d'Or"),
}


def labels_of(names: tuple[str, ...]) -> Labels:
    return Labels(names, ("a photo of a {}.",), "a photo of a {}.")


def draw_context(names: tuple[str, ...], shape: str, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    sizes = {"shared": (4, 32), "long": (16, 32), "single": (1, 32), "own": (len(names), 4, 32)}
    return (0.3 * torch.randn(sizes[shape], generator=generator, dtype=dtype)).requires_grad_()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def test_the_ragged_names_have_one_to_eight_tokens(clip: Backbone) -> None:
    lengths = [len(clip.tokens(name)) for name in RAGGED]
    assert set(lengths) == set(range(1, 9))
    assert lengths != sorted(lengths)


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("shape", ["shared", "own", "single", "long"])
def test_prompt_features_equal_the_full_forward(
    backbone64: Backbone, names: tuple[str, ...], shape: str
) -> None:
    context = draw_context(names, shape, torch.float64)
    found = backbone64.encode_prompts(backbone64.prompts(labels_of(names), context))
    expected = encode_contexts(backbone64, names, context)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", ["shared", "own"])
def test_prompt_features_equal_the_full_forward_in_single_precision(
    backbone: Backbone, shape: str
) -> None:
    context = draw_context(RAGGED, shape, torch.float32)
    found = backbone.encode_prompts(backbone.prompts(labels_of(RAGGED), context))
    assert found.dtype == torch.float32
    assert relative_error(found, encode_contexts(backbone, RAGGED, context)) < 1e-5


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("shape", ["shared", "own"])
def test_context_gradients_equal_those_of_the_full_forward(
    backbone64: Backbone, names: tuple[str, ...], shape: str
) -> None:
    context = draw_context(names, shape, torch.float64)
    found = backbone64.encode_prompts(backbone64.prompts(labels_of(names), context))
    expected = encode_contexts(backbone64, names, context)
    # A non-linear function of all features, so that every class matters differently.
    weight = torch.randn(
        expected.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64
    )
    (found_gradient,) = torch.autograd.grad((weight * found).sin().sum(), context)
    (gradient,) = torch.autograd.grad((weight * expected).sin().sum(), context)
    assert gradient.abs().min() > 0
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-10, atol=1e-10)


def test_context_gradients_equal_those_of_the_full_forward_in_single_precision(
    backbone: Backbone,
) -> None:
    context = draw_context(RAGGED, "shared", torch.float32)
    found = backbone.encode_prompts(backbone.prompts(labels_of(RAGGED), context))
    (found_gradient,) = torch.autograd.grad(found.square().sum(), context)
    expected = encode_contexts(backbone, RAGGED, context)
    (gradient,) = torch.autograd.grad(expected.square().sum(), context)
    assert relative_error(found_gradient, gradient) < 1e-5


def test_plain_texts_equal_encode_text(backbone64: Backbone) -> None:
    texts = tuple(f"a photo of a {name}." for name in RAGGED)
    torch.testing.assert_close(
        backbone64.text_features(texts), encode_texts(backbone64, texts), rtol=1e-10, atol=1e-10
    )


def test_plain_texts_equal_encode_text_in_single_precision(backbone: Backbone) -> None:
    texts = tuple(f"a photo of a {name}." for name in RAGGED)
    found, expected = backbone.text_features(texts), encode_texts(backbone, texts)
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize(
    "texts",
    [
        ("",),
        ("", "dog"),
        ("dog",),
        ("dog", "dog"),
        ("dog", "dog tree"),
        ("dog tree", "dog"),
        ("dog", "tree"),
        ("dog dog dog", "dog dog", "dog"),
    ],
)
def test_texts_that_share_all_some_or_none_of_their_tokens(
    backbone64: Backbone, texts: tuple[str, ...]
) -> None:
    torch.testing.assert_close(
        backbone64.text_features(texts), encode_texts(backbone64, texts), rtol=1e-10, atol=1e-10
    )


def test_a_text_that_fills_the_context_is_encoded_whole(clip64: Backbone) -> None:
    texts = (" ".join(["dog"] * (CONTEXT_LENGTH - 2)), "dog")
    torch.testing.assert_close(
        clip64.text_features(texts), encode_texts(clip64, texts), rtol=1e-10, atol=1e-10
    )


@given(
    shared=st.integers(1, 6),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    seed=st.integers(0, 99),
)
def test_any_prompts_equal_the_full_forward(
    clip64: Backbone, shared: int, lengths: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    prefix, suffix = draw(shared, 32).requires_grad_(), draw(len(lengths), 9, 32).requires_grad_()
    found = clip64.encode_prompts(Prompts(prefix, suffix, tuple(lengths)))
    # What follows the end-of-text token is noise here: nothing may depend on it.
    rows = [
        torch.cat([prefix, suffix[i, :n], draw(CONTEXT_LENGTH - shared - n, 32)])
        for i, n in enumerate(lengths)
    ]
    last = torch.tensor([shared + n - 1 for n in lengths])
    expected = run_tower(clip64.model, torch.stack(rows), last)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weight = draw(*expected.shape)
    found_gradients = torch.autograd.grad((weight * found).sum(), [prefix, suffix])
    gradients = torch.autograd.grad((weight * expected).sum(), [prefix, suffix])
    torch.testing.assert_close(found_gradients, gradients, rtol=1e-9, atol=1e-9)


@given(order=st.permutations(range(len(RAGGED))), shape=st.sampled_from(["shared", "own"]))
def test_features_follow_the_classes_when_these_are_permuted(
    clip64: Backbone, order: list[int], shape: str
) -> None:
    context = draw_context(RAGGED, shape, torch.float64)
    features = clip64.encode_prompts(clip64.prompts(labels_of(RAGGED), context))
    permuted = labels_of(tuple(RAGGED[i] for i in order))
    own = context if shape == "shared" else context[order]
    found = clip64.encode_prompts(clip64.prompts(permuted, own))
    torch.testing.assert_close(found, features[order], rtol=1e-10, atol=1e-10)


def test_a_class_does_not_depend_on_the_other_classes(clip64: Backbone) -> None:
    context = draw_context(RAGGED, "shared", torch.float64)
    together = clip64.encode_prompts(clip64.prompts(labels_of(RAGGED), context))
    for i, name in enumerate(RAGGED):
        alone = clip64.encode_prompts(clip64.prompts(labels_of((name,)), context))
        torch.testing.assert_close(alone[0], together[i], rtol=1e-10, atol=1e-10)


def test_layer_scale_is_applied() -> None:
    backbone = wrap(tiny_clip(ls_init_value=0.5), "scaled")
    found, expected = backbone.text_features(RAGGED), encode_texts(backbone, RAGGED)
    assert relative_error(found, expected) < 1e-5


def test_a_linear_projection_with_bias_is_applied() -> None:
    backbone = wrap(tiny_clip(proj_bias=True), "biased")
    found, expected = backbone.text_features(RAGGED), encode_texts(backbone, RAGGED)
    assert relative_error(found, expected) < 1e-5


def test_a_tower_without_projection_gives_its_width() -> None:
    backbone = wrap(tiny_clip(embed_dim=32, proj_type="none"), "unprojected")
    found, expected = backbone.text_features(RAGGED), encode_texts(backbone, RAGGED)
    assert relative_error(found, expected) < 1e-5


def test_a_prompt_longer_than_the_context_is_refused(clip: Backbone) -> None:
    context = torch.zeros(CONTEXT_LENGTH - 3, 32)
    fits = clip.prompts(labels_of(("",)), context)  # SOS, context, ".", EOT
    assert clip.encode_prompts(fits).shape == (1, 16)
    with pytest.raises(CompatbenchError, match=r"a prompt of 33 tokens .* 32"):
        clip.encode_prompts(clip.prompts(labels_of(("", "dog")), context))


def test_a_text_longer_than_the_context_is_refused_not_cut(clip: Backbone) -> None:
    with pytest.raises(CompatbenchError, match="does not fit"):
        clip.text_features((" ".join(["dog"] * (CONTEXT_LENGTH - 1)),))


OTHER_KINDS = {
    "no causal mask": dict(no_causal_mask=True),
    "pooled at the last row": dict(pool_type="last"),
    "pooled at the first row": dict(pool_type="first"),
    "pooled at the tokenizer's own end": dict(pool_type="eos", eos_id=2513),
    "normalised queries": dict(qk_norm=True),
    "scaled heads": dict(scale_heads=True),
    "normalised attention output": dict(scale_attn=True),
}


@pytest.mark.parametrize("kind", OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_a_tower_of_another_kind_equals_encode_text(kind: dict[str, object]) -> None:
    backbone = wrap(tiny_clip(**kind), "other")
    found, expected = backbone.text_features(RAGGED), encode_texts(backbone, RAGGED)
    assert relative_error(found, expected) < 1e-5


def test_a_tower_that_lost_its_mask_is_run_without_one() -> None:
    """As open_clip runs it: features with a mask that is not there would be another model's."""
    model = tiny_clip()
    masked = wrap(model, "masked").text_features(RAGGED)
    model.attn_mask = None  # type: ignore[assignment]
    backbone = wrap(model, "unmasked")
    found, expected = backbone.text_features(RAGGED), encode_texts(backbone, RAGGED)
    assert relative_error(found, expected) < 1e-5
    assert relative_error(found, masked) > 0.01


def with_mask(mask: Tensor) -> nn.Module:
    model = tiny_clip()
    model.attn_mask = mask
    return model


def with_foreign_text_tower() -> nn.Module:
    model = tiny_clip()
    model.text = nn.Linear(2, 2)
    return model


FULL = torch.full((CONTEXT_LENGTH, CONTEXT_LENGTH), -torch.inf)
UNSUPPORTED = {
    "mask of zeros": lambda: with_mask(torch.zeros(CONTEXT_LENGTH, CONTEXT_LENGTH)),
    "mask that hides the token itself": lambda: with_mask(FULL.triu(0)),
    "mask that shows the next token": lambda: with_mask(FULL.triu(2)),
    "mask that also hides the past": lambda: with_mask(FULL.triu(1) + FULL.tril(-5)),
    "mask that weighs the past": lambda: with_mask(FULL.triu(1) + torch.ones_like(FULL).tril()),
    "no pooling": lambda: tiny_clip(pool_type="none"),
    "not a transformer": with_foreign_text_tower,
}


@pytest.mark.parametrize("build", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_a_tower_of_no_known_kind_is_refused(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(CompatbenchError, match=r"'odd': its text tower is of no kind"):
        TextTower(build(), "odd")
