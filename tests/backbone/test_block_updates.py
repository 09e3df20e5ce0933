"""Updates of blocks, and weights by common names, equal forward hooks on the models themselves."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from open_clip.model import CLIP
from open_clip_reference import assert_same, draw, encode_texts, text_tower
from test_image_tower import TOWERS, pixels
from tiny_models import randomise, text_config, tiny_clip, tiny_eva_clip, wrap
from torch import Tensor, nn

from compatbench.backbone import (
    DENSE,
    PIXELS,
    POOLED,
    Backbone,
    BlockUpdates,
    ImageInput,
    ImageTower,
    Labels,
    memory_budget,
)
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.method import Module, shift_weights
from compatbench.methods.coop import CoOp

TEXTS = tuple(
    f"a photo of a {name}."
    for name in ("xylophone", "dog", "a very old small blue boat", "fire engine", "tree")
)
PARTS = ("attn", "mlp", "block")


def draw_update(width: int, seed: int) -> tuple[Callable[[Tensor, Tensor], Tensor], list[Tensor]]:
    """An update that depends on both of its rows, and its parameters."""
    a, b = draw(width, width, seed=seed), draw(width, width, seed=seed + 100)
    return lambda output, given: output * 1.5 + (given @ a).tanh() + output @ b, [a, b]


def draw_updates(width: int, depth: int) -> tuple[BlockUpdates, list[Tensor]]:
    """Updates of every part of the first and of the last block, and one between."""
    places = [(0, part) for part in PARTS] + [(depth - 1, part) for part in PARTS]
    places += [(1, "mlp")]
    drawn = {place: draw_update(width, seed=i) for i, place in enumerate(dict.fromkeys(places))}
    updates = {place: update for place, (update, _) in drawn.items()}
    return updates, [p for _, parameters in drawn.values() for p in parameters]  # type: ignore[return-value]


@contextmanager
def hooked(blocks: Any, updates: Mapping[Any, Any], names: tuple[str, str]) -> Iterator[None]:
    """Forward hooks in place of updates; ``names`` are those of the first norm and of the MLP."""
    norm, handles = names[0], []

    def change(update: Any) -> Any:
        def hook(module: nn.Module, given: Any, options: Any, output: Any) -> Any:
            x = given[0] if given else options["query"]
            if isinstance(output, tuple):
                return update(output[0], x), *output[1:]
            return update(output, x)

        return hook

    def change_block(update: Any) -> Any:
        def hook(block: Any, given: Any, output: Tensor) -> Tensor:
            post_norm = type(block).__name__ == "EvaBlockPostNorm"
            return update(output, given[0] if post_norm else getattr(block, norm)(given[0]))

        return hook

    for (place, part), update in updates.items():
        block = blocks[place]
        if part == "block":
            handles.append(block.register_forward_hook(change_block(update)))
        else:
            part = {"attn": block.attn, "mlp": block.mlp}[part]
            handles.append(part.register_forward_hook(change(update), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture(params=TOWERS)
def visual(request: pytest.FixtureRequest) -> Any:
    return TOWERS[request.param]()


def test_in_an_image_tower(visual: Any) -> None:
    tower, images = ImageTower(visual, "tiny"), pixels(visual)
    updates, parameters = draw_updates(tower.width, tower.depth)
    clip = hasattr(visual, "class_embedding")
    blocks = visual.transformer.resblocks if clip else visual.trunk.blocks
    with hooked(blocks, updates, ("ln_1" if clip else "norm1", "")):
        expected = visual(images)
    found = tower.encode(tower.embed(images), block_updates=updates)
    # A pooled class row leaves no gradient of what is changed in other rows of the last block.
    assert_same(found, expected, parameters)
    assert (found - visual(images)).abs().max() > 1e-3


KINDS: dict[str, Callable[[], nn.Module]] = {
    "clip": tiny_clip,
    "eva": tiny_eva_clip,
    "bidirectional": lambda: tiny_clip(no_causal_mask=True),
    "query-key norms": lambda: tiny_clip(qk_norm=True),
    "layer scale": lambda: tiny_clip(ls_init_value=0.5),
    "pooled at the first": lambda: tiny_clip(no_causal_mask=True, pool_type="first"),
}


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("kind", KINDS)
def test_in_a_text_tower(kind: str, budget: int | None) -> None:
    backbone = wrap(KINDS[kind]().double(), "tiny")
    updates, parameters = draw_updates(backbone.token_width, backbone.text.depth)
    blocks = text_tower(backbone).transformer.resblocks
    with memory_budget(budget):
        prompts = backbone.text_prompts(TEXTS)
        found = backbone.encode_prompts(prompts, block_updates=updates)
        with hooked(blocks, updates, ("ln_1", "")):
            expected = encode_texts(backbone, TEXTS)
        assert_same(found, expected, parameters)
    assert torch.equal(backbone.encode_prompts(prompts), backbone.text_features(TEXTS))


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_of_projections_they_equal_a_merged_text_weight(clip64: Backbone, part: Any) -> None:
    width = clip64.token_width
    down, up, place = draw(2, width, seed=1), draw(width, 2, seed=2), "qkv".index(part)
    name = "transformer.resblocks.1.attn.in_proj_weight"
    delta = torch.cat([up @ down if i == place else torch.zeros(width, width) for i in range(3)])
    prompts = clip64.text_prompts(TEXTS)
    update = {(1, part): lambda y, x: y + x @ down.T @ up.T}
    found = clip64.encode_prompts(prompts, block_updates=update)
    expected = clip64.encode_prompts(prompts, shift_weights(clip64.text.weights, {name: delta}))
    assert_same(found, expected, [down, up])


def test_deep_prompts_and_other_weights_go_with_them(clip64: Backbone) -> None:
    updates, parameters = draw_updates(clip64.token_width, clip64.text.depth)
    delta = {"ln_final.weight": draw(clip64.token_width, seed=77)}
    other = wrap(copy.deepcopy(clip64.model), "other")
    text_tower(other).ln_final.weight.data += delta["ln_final.weight"].detach()
    deep = draw(4, clip64.token_width, seed=78)
    prompts = clip64.text_prompts(TEXTS)
    prompts = dataclasses.replace(prompts, deep=(deep,))
    weights = shift_weights(clip64.text.weights, delta)
    found = clip64.encode_prompts(prompts, weights, updates)
    blocks = text_tower(other).transformer.resblocks
    with hooked(blocks, updates, ("ln_1", "")):
        expected = encode_texts(other, TEXTS, replaced={1: deep})
    assert_same(found, expected, [deep, *parameters])


def test_a_bfloat16_tower_shows_float32(clip: Backbone) -> None:
    low = wrap(copy.deepcopy(clip.model).to(torch.bfloat16), "low")
    seen = []

    def update(output: Tensor, given: Tensor) -> Tensor:
        seen.append((output.dtype, given.dtype))
        return output + given

    where: BlockUpdates = {(1, "attn"): update, (1, "q"): update}
    features = low.encode_prompts(low.text_prompts(TEXTS), block_updates=where)
    images = low.image.encode(pixels(low.model.visual).bfloat16(), block_updates=where)
    assert {features.dtype, images.dtype, *(d for pair in seen for d in pair)} == {torch.float32}


def test_shifted_weights_are_one_copy_in_the_tower_s_precision(clip: Backbone) -> None:
    """Features are, bit for bit, those of sums that are rounded where they are used."""
    low = wrap(copy.deepcopy(clip.model).to(torch.bfloat16), "low")
    prompts, images = low.text_prompts(TEXTS), pixels(low.model.visual).bfloat16()
    for weights, encode in (
        (low.text.weights, lambda given: low.encode_prompts(prompts, given)),
        (low.image.weights, lambda given: low.image.encode(images, weights=given)),
    ):
        deltas = {name: 0.1 * torch.randn(weight.shape) for name, weight in weights.items()}
        found = shift_weights(weights, deltas)
        assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
        wide = {name: weight.float() + deltas[name] for name, weight in weights.items()}
        assert torch.equal(encode(found), encode(wide))


def test_what_has_no_place_is_refused(clip: Backbone) -> None:
    prompts, images = clip.text_prompts(TEXTS), pixels(clip.model.visual).float()
    keep: BlockUpdates = {(3, "mlp"): lambda output, given: output}
    with pytest.raises(NotTransferable, match="block 3 of the text tower, which has 3"):
        clip.encode_prompts(prompts, block_updates=keep)
    with pytest.raises(NotTransferable, match="block 3 of the image tower, which has 2"):
        clip.image.encode(images, block_updates=keep)
    with pytest.raises(CompatbenchError, match="update of 'mlp' made"):
        clip.image.encode(images, block_updates={(0, "mlp"): lambda output, given: output[:, 1:]})
    other = wrap(tiny_clip(no_causal_mask=True), "other")
    with pytest.raises(NotTransferable, match="have no part 'q'"):
        other.encode_prompts(prompts, block_updates={(0, "q"): lambda output, given: output})
    with pytest.raises(NotTransferable, match=r"text tower has no 'ln_pre\.weight'"):
        shift_weights(clip.text.weights, {"ln_pre.weight": torch.zeros(32)})
    with pytest.raises(NotTransferable, match=r"'ln_pre\.weight' of size 48, not 32"):
        shift_weights(clip.image.weights, {"ln_pre.weight": torch.zeros(48)}, "image")


def test_weights_of_image_towers_have_common_names(visual: Any) -> None:
    tower = ImageTower(visual, "tiny")
    weights = tower.weights
    assert sum(w.numel() for w in weights.values()) == sum(p.numel() for p in visual.parameters())
    for norm in ("0.ln_1", "0.ln_2", "1.ln_1", "1.ln_2"):
        assert {f"transformer.resblocks.{norm}.{n}" for n in ("weight", "bias")} <= weights.keys()
    if hasattr(visual, "class_embedding"):
        own = dict(visual.named_parameters())
        assert weights.keys() == own.keys()
        assert all(torch.equal(weights[name], own[name]) for name in own)


def test_every_weight_that_is_replaced_counts(visual: Any) -> None:
    """From pixels, all at once: as when each parameter of the model is that of its place."""
    tower, images = ImageTower(visual, "tiny"), pixels(visual)
    weights = {
        name: (weight + 0.05 * draw(*weight.shape, seed=i)).detach()
        for i, (name, weight) in enumerate(tower.weights.items())
    }
    before = {n: p.clone() for n, p in visual.named_parameters()}
    found = tower.encode(images, weights=weights)
    changed: Any = copy.deepcopy(visual)
    own = tower._names.write(weights)
    assert own.keys() == before.keys()
    for name, parameter in changed.named_parameters():
        parameter.data.copy_(own[name])
    torch.testing.assert_close(found, changed(images), rtol=1e-10, atol=1e-10)
    again = ImageTower(changed, "tiny").weights
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert all(torch.equal(before[n], p) for n, p in visual.named_parameters())
    for name, weight in weights.items():
        one = tower.encode(images, weights={name: weight.requires_grad_()})
        assert torch.autograd.grad(one.sin().sum(), weight)[0].isfinite().all()


def test_eva_s_weights_are_where_clip_s_are() -> None:
    visual: Any = tiny_eva_clip().double().visual
    weights, block = ImageTower(visual, "tiny").weights, visual.trunk.blocks[0]
    first = "transformer.resblocks.0."
    qkv = [getattr(block.attn, f"{part}_proj").weight for part in "qkv"]
    same = {
        first + "ln_1.weight": block.norm1.weight,
        first + "ln_2.bias": block.norm2.bias,
        first + "attn.in_proj_weight": torch.cat(qkv),
        first + "attn.out_proj.weight": block.attn.proj.weight,
        first + "attn.norm.weight": block.attn.norm.weight,
        first + "mlp.norm.bias": block.mlp.norm.bias,
        first + "mlp.c_proj.weight": block.mlp.fc2.weight,
        "ln_post.weight": visual.trunk.norm.weight,
        "conv1.weight": visual.trunk.patch_embed.proj.weight,
        "class_embedding": visual.trunk.cls_token[0, 0],
        "positional_embedding": visual.trunk.pos_embed[0],
        "proj": visual.head.proj.weight.T,
    }
    assert all(torch.equal(weights[name], tensor) for name, tensor in same.items())
    assert "ln_pre.weight" not in weights


def test_before_the_first_norm_lies_an_input_of_its_own(visual: Any) -> None:
    tower, images = ImageTower(visual, "tiny"), pixels(visual)
    found = tower.encode(tower.embed(images, -1), block=-1)
    torch.testing.assert_close(found, visual(images), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(tower.encode(images), visual(images), rtol=1e-10, atol=1e-10)


def test_rows_before_the_projection(visual: Any) -> None:
    tower, images = ImageTower(visual, "tiny"), pixels(visual)
    prompts = [draw(2, tower.width, seed=1), draw(2, tower.width, seed=2)]
    pooled, rows = tower.encode_rows(tower.embed(images), prompts=prompts)
    expected = tower.encode(tower.embed(images), prompts=prompts)
    torch.testing.assert_close(tower.project(pooled), expected, rtol=1e-10, atol=1e-10)
    assert rows.shape[1] == tower.tokens + 2
    if tower._anatomy.class_pooled and type(visual).__name__ == "VisionTransformer":
        torch.testing.assert_close(rows[:, 0], pooled, rtol=1e-10, atol=1e-10)


def test_a_backbone_gives_pixels_and_what_is_projected(backbone64: Backbone) -> None:
    images = pixels(backbone64.model.visual)
    assert torch.equal(backbone64.encode_images(images, PIXELS), images)
    pooled = backbone64.encode_images(images, POOLED)
    features, weights = backbone64.encode_images(images), backbone64.image.weights
    projected = pooled @ weights["proj"] + weights.get("proj_bias", 0)
    torch.testing.assert_close(projected, features, rtol=1e-10, atol=1e-10)


def test_a_resnet_gives_features_and_pixels_and_is_refused_the_rest(labels: Labels) -> None:
    vision: Any = dict(layers=(1, 1, 1, 1), width=8, image_size=32)
    model: Any = randomise(CLIP(16, vision, text_config(), quick_gelu=True), 5)  # type: ignore[arg-type]
    model.visual.preprocess_cfg = dict(size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    backbone, images = wrap(model, "resnet"), torch.randn(2, 3, 32, 32)
    assert torch.equal(backbone.encode_images(images), model.encode_image(images))
    assert torch.equal(backbone.encode_images(images, PIXELS), images)
    assert backbone.zero_shot(labels).shape == (len(labels), 16)
    for wanted in (POOLED, DENSE, ImageInput("hidden")):
        with pytest.raises(NotTransferable, match="neither CLIP's nor EVA's"):
            backbone.encode_images(images, wanted)
    module = CoOp(CoOp.Config(context_length=2))
    context = Module({"context": backbone.embed_text("a photo")})
    logits = module.attach(context, backbone, labels)(backbone.encode_images(images))
    assert logits.shape == (2, len(labels))
