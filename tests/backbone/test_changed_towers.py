"""Towers with other weights or with updates of their blocks equal a model changed likewise."""

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

TEXTS = (
    "a photo of a xylophone.",
    "a photo of a dog.",
    "a photo of a a very old small blue boat.",
    "a photo of a fire engine.",
    "a photo of a tree.",
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
    """A tower and its model.

    Attributes:
        encode: computes features of fixed inputs, with ``weights`` and ``block_updates``.
        blocks: the blocks of the model.
        own: computes the same features by the forward of a model.
        split: renames weights from the common names to the model's.
    """

    tower: TextTower | ImageTower
    encode: Callable[..., Tensor]
    model: nn.Module
    blocks: Any
    own: Callable[[Any], Tensor]
    split: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


def case_of_texts(kind: str) -> Case:
    backbone = wrap(TEXT_TOWERS[kind]().double(), "tiny")
    inner = text_tower(backbone)
    prompts = backbone.text_prompts(TEXTS)
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
    tower = ImageTower(visual, "tiny")
    images = pixels(visual)

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
    """Return updates of the first, the last and another block, and their parameters.

    The updates depend on the output and on the input of what they change.
    """
    places = {}  # without duplicates, in this order
    for block in (0, depth - 1):
        for part in PARTS:
            places[block, part] = True
    places[1, "mlp"] = True
    updates = {}
    parameters = []
    for i, place in enumerate(places):
        a = draw(width, width, seed=i)
        b = draw(width, width, seed=i + 100)
        updates[place] = lambda y, x, a=a, b=b: y * 1.5 + (x @ a).tanh() + y @ b
        parameters += [a, b]
    return updates, parameters  # type: ignore[return-value]


@contextmanager
def hooked(blocks: Any, updates: Mapping[Any, Any]) -> Iterator[None]:
    """Apply updates by forward hooks."""

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
    plain = case.encode()
    found = case.encode(block_updates=updates)
    with hooked(case.blocks, updates):
        expected = case.own(case.model)
    # If the class row is pooled, changes of other rows in the last block have no gradient.
    assert_same(found, expected, parameters)
    with memory_budget(0):
        assert_same(case.encode(block_updates=updates), expected, parameters)
    assert (found - plain).abs().max() > 1e-3
    assert torch.equal(case.encode(), plain)


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_update_of_a_projection_equals_the_merged_weight(case: Case, part: Any) -> None:
    name = "transformer.resblocks.1.attn.in_proj_weight"
    width = case.tower.width
    down = draw(2, width, seed=1)
    up = draw(width, 2, seed=2)
    place = "qkv".index(part)
    updates: BlockUpdates = {(1, part): lambda y, x: y + x @ down.T @ up.T}
    if isinstance(case.tower, TextTower) and not isinstance(case.tower._tower, CausalTower):
        with pytest.raises(NotTransferable, match=f"have no part '{part}'"):
            case.encode(block_updates=updates)
        return
    deltas = [torch.zeros(width, width) for _ in range(3)]
    deltas[place] = up @ down
    delta = torch.cat(deltas)
    expected = case.encode(shift_weights(case.tower.weights, {name: delta}))
    assert_same(case.encode(block_updates=updates), expected, [down, up])


def moved(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return other weights of the same sizes that require gradients."""
    others = {}
    for i, (name, weight) in enumerate(weights.items()):
        shift = 0.05 * draw(*weight.shape, seed=seed + i)
        others[name] = (weight + shift).detach().requires_grad_()
    return others


def test_replaced_weights_all_count_and_leave_the_model_unchanged(case: Case) -> None:
    weights = moved(case.tower.weights, 0)
    before = copy.deepcopy(case.model.state_dict())
    changed = copy.deepcopy(case.model)
    parameters = dict(changed.named_parameters())
    for name, tensor in case.split(weights).items():
        parameters[name].data = tensor.detach()
        parameters[name].requires_grad_()
    with memory_budget(0):
        found = case.encode(weights)
        expected = case.own(changed)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        # Recomputation must use the weights of this call, not those of a later one.
        case.encode(moved(weights, 1000))
        gradients = torch.autograd.grad(found.sin().sum(), list(weights.values()))
    for gradient in gradients:
        assert gradient.abs().max() > 0
    own = case.split(dict(zip(weights, gradients, strict=True)))
    own_parameters = [parameters[name] for name in own]
    wanted = torch.autograd.grad(expected.sin().sum(), own_parameters)
    torch.testing.assert_close([*own.values()], [*wanted], rtol=1e-8, atol=1e-8)
    after = case.model.state_dict()
    for name, tensor in after.items():
        assert torch.equal(before[name], tensor)
    for parameter in case.model.parameters():
        assert parameter.grad is None


def test_eva_weights_have_the_names_of_clips() -> None:
    visual: Any = tiny_eva_clip().double().visual
    weights = ImageTower(visual, "tiny").weights
    block = visual.trunk.blocks[0]
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
    for name, tensor in same.items():
        assert torch.equal(weights[name], tensor)


def test_updates_combine_with_deep_prompts_and_other_weights(clip64: Backbone) -> None:
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


def test_bfloat16_tower_passes_float32_to_updates_and_rounds_shifted_weights_once(
    clip: Backbone,
) -> None:
    """Features are, bit for bit, those of float32 sums that are rounded where they are used."""
    low = wrap(copy.deepcopy(clip.model).to(torch.bfloat16), "low")
    seen = []

    def update(output: Tensor, given: Tensor) -> Tensor:
        seen.append((output.dtype, given.dtype))
        return output + given

    where: BlockUpdates = {(1, "attn"): update, (1, "q"): update}
    prompts = low.text_prompts(TEXTS)
    images = pixels(low.model.visual).bfloat16()
    features = low.encode_prompts(prompts, block_updates=where)
    of_images = low.image.encode(images, block_updates=where)
    assert features.dtype == torch.float32
    assert of_images.dtype == torch.float32
    for dtypes in seen:
        assert dtypes == (torch.float32, torch.float32)
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


# Arguments for the towers of a CLIP, and the error.
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
def test_updates_and_weights_without_a_place_are_refused(
    clip: Backbone, tower: str, changes: dict[str, Any], message: str
) -> None:
    encode = partial(clip.encode_prompts, clip.text_prompts(TEXTS))
    if tower == "image":
        encode = partial(clip.image.encode, pixels(clip.model.visual).float())
    elif tower == "shift":
        encode = partial(shift_weights, clip.text.weights, tower="text")
    with pytest.raises((CompatbenchError, NotTransferable), match=message):
        encode(**changes)
