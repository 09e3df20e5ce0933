"""Towers with other weights, and with updates of their blocks, equal the model changed likewise."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from kinds_of_towers import IMAGE_TOWERS, custom, pixels
from open_clip_reference import assert_same, draw, encode_texts, text_tower
from tiny_models import tiny_clip, tiny_eva_clip, wrap
from torch import Tensor, nn

from compatbench.backbone import Backbone, BlockUpdates, ImageTower, memory_budget
from compatbench.backbone.text.causal import CausalTower
from compatbench.backbone.text.text_tower import TextTower
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.method import shift_weights

TEXTS = tuple(
    f"a photo of a {name}."
    for name in ("xylophone", "dog", "a very old small blue boat", "fire engine", "tree")
)
PARTS = ("attn", "mlp", "block")
TEXT_TOWERS: dict[str, Callable[[], nn.Module]] = {
    "clip": tiny_clip,
    "eva": tiny_eva_clip,
    "bidirectional": lambda: tiny_clip(no_causal_mask=True),
    "query-key norms": lambda: tiny_clip(qk_norm=True),
    "layer scale": lambda: tiny_clip(ls_init_value=0.5),
    "pooled at the first": lambda: tiny_clip(no_causal_mask=True, pool_type="first"),
    "projection with a bias": lambda: custom(proj_bias=True),
}


@dataclass(frozen=True)
class Case:
    """A tower, and the model that it is of.

    Attributes:
        encode: features of fixed inputs, with ``weights`` and ``block_updates``.
        blocks: the model's own.
        own: features that the model itself computes, or another of its kind.
        split: weights by common names to those by the model's own.
    """

    tower: TextTower | ImageTower
    encode: Callable[..., Tensor]
    model: nn.Module
    blocks: Any
    own: Callable[[Any], Tensor]
    split: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


def case_of_texts(kind: str) -> Case:
    backbone = wrap(TEXT_TOWERS[kind]().double(), "tiny")
    inner, prompts = text_tower(backbone), backbone.text_prompts(TEXTS)
    start = "" if inner is backbone.model else "text."

    def encode(weights: Any = None, block_updates: Any = None) -> Tensor:
        return backbone.encode_prompts(prompts, weights, block_updates)

    def split(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"{start}{name}": tensor for name, tensor in weights.items()}

    def own(model: Any) -> Tensor:
        return encode_texts(wrap(model, "other"), TEXTS)

    blocks = inner.transformer.resblocks
    return Case(backbone.text, encode, backbone.model, blocks, own, split)


def case_of_images(kind: str) -> Case:
    visual: Any = IMAGE_TOWERS[kind]()
    tower, images = ImageTower(visual, "tiny"), pixels(visual)

    def encode(weights: Any = None, block_updates: Any = None) -> Tensor:
        return tower.encode(images, weights=weights, block_updates=block_updates)

    trunk = getattr(visual, "trunk", None)
    blocks = visual.transformer.resblocks if trunk is None else trunk.blocks
    return Case(tower, encode, visual, blocks, lambda model: model(images), tower._names.write)


CASES = [(case_of_texts, kind) for kind in TEXT_TOWERS]
CASES += [(case_of_images, kind) for kind in IMAGE_TOWERS]


@pytest.fixture(params=CASES, ids=lambda pair: f"{pair[0].__name__}-{pair[1]}")
def case(request: pytest.FixtureRequest) -> Case:
    build, kind = request.param
    return build(kind)


def draw_updates(width: int, depth: int) -> tuple[BlockUpdates, list[Tensor]]:
    """Updates that depend on both of their rows, of every part of the first and of the last block
    and one between, and their parameters."""
    places = [(block, part) for block in (0, depth - 1) for part in PARTS] + [(1, "mlp")]
    updates, parameters = {}, []
    for i, place in enumerate(dict.fromkeys(places)):
        a, b = draw(width, width, seed=i), draw(width, width, seed=i + 100)
        updates[place] = lambda y, x, a=a, b=b: y * 1.5 + (x @ a).tanh() + y @ b
        parameters += [a, b]
    return updates, parameters  # type: ignore[return-value]


@contextmanager
def hooked(blocks: Any, updates: Mapping[Any, Any]) -> Iterator[None]:
    """Forward hooks in place of updates."""

    def change(update: Any) -> Any:
        def hook(module: nn.Module, given: Any, options: Any, output: Any) -> Any:
            x = given[0] if given else options["query"]
            if isinstance(output, tuple):
                return update(output[0], x), *output[1:]
            return update(output, x)

        return hook

    def change_block(update: Any) -> Any:
        def hook(block: Any, given: Any, output: Tensor) -> Tensor:
            norm = block.ln_1 if hasattr(block, "ln_1") else block.norm1
            post_norm = type(block).__name__ == "EvaBlockPostNorm"
            return update(output, given[0] if post_norm else norm(given[0]))

        return hook

    handles = []
    for (place, part), update in updates.items():
        block = blocks[place]
        if part == "block":
            handles.append(block.register_forward_hook(change_block(update)))
        else:
            module = {"attn": block.attn, "mlp": block.mlp}[part]
            handles.append(module.register_forward_hook(change(update), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def test_updates_equal_forward_hooks(case: Case) -> None:
    updates, parameters = draw_updates(case.tower.width, case.tower.depth)
    plain, found = case.encode(), case.encode(block_updates=updates)
    with hooked(case.blocks, updates):
        expected = case.own(case.model)
    # A pooled class row leaves no gradient of what is changed in other rows of the last block.
    assert_same(found, expected, parameters)
    with memory_budget(0):
        assert_same(case.encode(block_updates=updates), expected, parameters)
    assert (found - plain).abs().max() > 1e-3
    assert torch.equal(case.encode(), plain)


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_an_update_of_a_projection_equals_the_merged_weight(case: Case, part: Any) -> None:
    name, width = "transformer.resblocks.1.attn.in_proj_weight", case.tower.width
    down, up, place = draw(2, width, seed=1), draw(width, 2, seed=2), "qkv".index(part)
    updates: BlockUpdates = {(1, part): lambda y, x: y + x @ down.T @ up.T}
    if isinstance(case.tower, TextTower) and not isinstance(case.tower._tower, CausalTower):
        with pytest.raises(NotTransferable, match=f"have no part '{part}'"):
            case.encode(block_updates=updates)
        return
    delta = torch.cat([up @ down if i == place else torch.zeros(width, width) for i in range(3)])
    expected = case.encode(shift_weights(case.tower.weights, {name: delta}))
    assert_same(case.encode(block_updates=updates), expected, [down, up])


def moved(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Other weights of the same sizes, of which gradients are wanted."""
    return {
        name: (weight + 0.05 * draw(*weight.shape, seed=seed + i)).detach().requires_grad_()
        for i, (name, weight) in enumerate(weights.items())
    }


def test_every_weight_that_is_replaced_counts_and_the_model_is_left(case: Case) -> None:
    weights, before = moved(case.tower.weights, 0), copy.deepcopy(case.model.state_dict())
    changed = copy.deepcopy(case.model)
    parameters = dict(changed.named_parameters())
    for name, tensor in case.split(weights).items():
        parameters[name].data = tensor.detach()
        parameters[name].requires_grad_()
    with memory_budget(0):
        found, expected = case.encode(weights), case.own(changed)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        # Other weights in between must not be what is computed again.
        case.encode(moved(weights, 1000))
        gradients = torch.autograd.grad(found.sin().sum(), list(weights.values()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    own = case.split(dict(zip(weights, gradients, strict=True)))
    wanted = torch.autograd.grad(expected.sin().sum(), [parameters[name] for name in own])
    torch.testing.assert_close([*own.values()], [*wanted], rtol=1e-8, atol=1e-8)
    after = case.model.state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    assert all(parameter.grad is None for parameter in case.model.parameters())


def test_eva_s_weights_are_where_clip_s_are() -> None:
    visual: Any = tiny_eva_clip().double().visual
    weights, block = ImageTower(visual, "tiny").weights, visual.trunk.blocks[0]
    first = "transformer.resblocks.0."
    qkv = [getattr(block.attn, f"{part}_proj").weight for part in "qkv"]
    same = {
        first + "ln_1.weight": block.norm1.weight,
        first + "attn.in_proj_weight": torch.cat(qkv),
        first + "attn.norm.weight": block.attn.norm.weight,
        first + "mlp.c_proj.weight": block.mlp.fc2.weight,
        "ln_post.weight": visual.trunk.norm.weight,
        "conv1.weight": visual.trunk.patch_embed.proj.weight,
        "class_embedding": visual.trunk.cls_token[0, 0],
        "proj": visual.head.proj.weight.T,
    }
    assert all(torch.equal(weights[name], tensor) for name, tensor in same.items())


def test_deep_prompts_and_other_weights_go_with_updates(clip64: Backbone) -> None:
    updates, parameters = draw_updates(clip64.token_width, clip64.text.depth)
    delta = {"ln_final.weight": draw(clip64.token_width, seed=77)}
    other = wrap(copy.deepcopy(clip64.model), "other")
    text_tower(other).ln_final.weight.data += delta["ln_final.weight"].detach()
    deep = draw(4, clip64.token_width, seed=78)
    prompts = dataclasses.replace(clip64.text_prompts(TEXTS), deep=(deep,))
    found = clip64.encode_prompts(prompts, shift_weights(clip64.text.weights, delta), updates)
    with hooked(text_tower(other).transformer.resblocks, updates):
        expected = encode_texts(other, TEXTS, replaced={1: deep})
    assert_same(found, expected, [deep, *parameters])


def test_a_bfloat16_tower_shows_float32_and_has_one_copy_of_shifted_weights(
    clip: Backbone,
) -> None:
    """Features are, bit for bit, those of sums that are rounded where they are used."""
    low, seen = wrap(copy.deepcopy(clip.model).to(torch.bfloat16), "low"), []

    def update(output: Tensor, given: Tensor) -> Tensor:
        seen.append((output.dtype, given.dtype))
        return output + given

    where: BlockUpdates = {(1, "attn"): update, (1, "q"): update}
    prompts, images = low.text_prompts(TEXTS), pixels(low.model.visual).bfloat16()
    features = low.encode_prompts(prompts, block_updates=where)
    of_images = low.image.encode(images, block_updates=where)
    kinds = {features.dtype, of_images.dtype, *(dtype for pair in seen for dtype in pair)}
    assert kinds == {torch.float32}
    for weights, encode in (
        (low.text.weights, lambda weights: low.encode_prompts(prompts, weights)),
        (low.image.weights, lambda weights: low.image.encode(images, weights=weights)),
    ):
        deltas = {name: 0.1 * torch.randn(weight.shape) for name, weight in weights.items()}
        shifted = shift_weights(weights, deltas)
        assert {tensor.dtype for tensor in shifted.values()} == {torch.bfloat16}
        wide = {name: weight.float() + deltas[name] for name, weight in weights.items()}
        assert torch.equal(encode(shifted), encode(wide))


def keep(output: Tensor, given: Tensor) -> Tensor:
    return output


# What is given to the towers of a CLIP, and what is said.
NO_PLACE: list[tuple[str, dict[str, Any], str]] = [
    ("text", dict(block_updates={(3, "mlp"): keep}), "block 3 of the text tower, which has 3"),
    ("image", dict(block_updates={(3, "mlp"): keep}), "block 3 of the image tower, which has 2"),
    ("image", dict(block_updates={(0, "mlp"): lambda y, _: y[:, 1:]}), "of 'mlp' must keep"),
    ("text", dict(weights={"ln_1.bias": torch.zeros(32)}), "text tower has no weight 'ln_1.bias'"),
    ("text", dict(weights={"ln_final.bias": torch.zeros(48)}), r"has shape \[32\], not \[48\]"),
    ("image", dict(weights={"ln_pre.bias": torch.zeros(48)}), r"has shape \[32\], not \[48\]"),
    ("shift", dict(deltas={"ln_pre.bias": torch.zeros(32)}), r"text tower has no 'ln_pre\.bias'"),
    ("shift", dict(deltas={"ln_final.bias": torch.zeros(48)}), "bias' of size 48, not 32"),
]


@pytest.mark.parametrize(("tower", "changes", "message"), NO_PLACE)
def test_what_has_no_place_is_refused(
    clip: Backbone, tower: str, changes: dict[str, Any], message: str
) -> None:
    encode = partial(clip.encode_prompts, clip.text_prompts(TEXTS))
    if tower == "image":
        encode = partial(clip.image.encode, pixels(clip.model.visual).float())
    elif tower == "shift":
        encode = partial(shift_weights, clip.text.weights, tower="text")
    with pytest.raises((CompatbenchError, NotTransferable), match=message):
        encode(**changes)
