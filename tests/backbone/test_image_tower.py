"""The image tower, started at any block, equals the forward of open_clip and timm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from image_reference import run_image_tower
from kinds_of_towers import IMAGE_TOWERS, UNKNOWN_IMAGE_TOWERS, pixels, resnet
from open_clip_reference import assert_same, draw
from tiny_models import wrap

from compatbench.backbone import DENSE, PIXELS, POOLED, Backbone, ImageInput, ImageTower, Labels
from compatbench.errors import NotTransferable
from compatbench.method import Module
from compatbench.methods.coop import CoOp


@pytest.fixture(scope="module", params=IMAGE_TOWERS)
def visual(request: pytest.FixtureRequest) -> Any:
    return IMAGE_TOWERS[request.param]()


def test_image_tower_from_any_block_equals_the_models_forward(visual: Any) -> None:
    tower = ImageTower(visual, "tiny")
    images = pixels(visual)
    expected = visual(images)
    for block in range(tower.depth):
        hidden = tower.embed(images, block)
        assert hidden.shape == (3, tower.tokens, tower.width)
        assert_same(tower.encode(hidden, block=block), expected)
    # Before block 0 there may be a norm, which is block -1.
    assert_same(tower.encode(tower.embed(images, -1), block=-1), expected)
    assert_same(tower.encode(images), expected)


def test_outputs_of_blocks_are_what_the_next_blocks_get(visual: Any) -> None:
    tower = ImageTower(visual, "tiny")
    images = pixels(visual)
    outputs = tower.run_blocks(tower.embed(images, 1), 1)
    assert len(outputs) == tower.depth - 1
    for block in range(2, tower.depth):
        assert_same(outputs[block - 2], tower.embed(images, block))
    assert_same(tower.encode(outputs[-1], block=tower.depth), visual(images))


def test_image_prompts_equal_the_models_blocks_over_all_tokens(visual: Any) -> None:
    tower = ImageTower(visual, "tiny")
    images = pixels(visual)
    hidden = tower.embed(images)
    plain = visual(images)
    for counts in ([2], [1, 3]):
        prompts = [draw(count, tower.width, seed=i) for i, count in enumerate(counts, start=1)]
        found = tower.encode(hidden, prompts=[tower.enter(prompts[0]), *prompts[1:]])
        assert_same(found, run_image_tower(visual, images, prompts), prompts)
        assert (found - plain).abs().max() > 1e-4
    # Prompts of an inner block.
    inner = [draw(2, tower.width, seed=i) for i in range(tower.depth - 1)]
    found = tower.encode(tower.embed(images, 1), block=1, prompts=inner)
    assert_same(found, run_image_tower(visual, images, [draw(0, tower.width), *inner]))
    # Prompts without rows.
    empty = [draw(0, tower.width)] * tower.depth
    assert_same(tower.encode(hidden, prompts=empty), plain)
    # Separate prompts for each image.
    first = draw(3, 2, tower.width, seed=0)
    second = draw(3, 2, tower.width, seed=1)
    alone = []
    for i in range(3):
        alone.append(tower.encode(hidden[i : i + 1], prompts=[first[i], second[i]]))
    assert_same(tower.encode(hidden, prompts=[first, second]), torch.cat(alone))
    # Rows before the projection.
    pooled, rows = tower.encode_rows(hidden, prompts=prompts)
    assert_same(tower.project(pooled), tower.encode(hidden, prompts=prompts))
    assert rows.shape[1] == tower.tokens + 3
    if tower._anatomy.class_pooled and type(visual).__name__ == "VisionTransformer":
        assert_same(rows[:, 0], pooled)


def test_tokens_replaced_by_later_prompts_are_not_computed(visual: Any) -> None:
    tower = ImageTower(visual, "tiny")
    images = pixels(visual)
    prompts = [draw(2, tower.width, seed=i) for i in range(2)]
    for count, rows in ((1, tower.tokens + 2), (2, tower.tokens)):
        seen: list[int] = []

        def note(output: torch.Tensor, given: torch.Tensor, seen: list[int] = seen) -> torch.Tensor:
            seen.append(given.shape[1])
            return output

        tower.encode(tower.embed(images), prompts=prompts[:count], block_updates={(0, "mlp"): note})
        assert seen == [rows]


@pytest.mark.parametrize("name", ["clip", "clip-average", "eva-mini", "eva-registers"])
def test_dense_features_are_the_feature_and_the_projected_patches(name: str) -> None:
    """They depend on prompts, and need a pooled row."""
    visual: Any = IMAGE_TOWERS[name]()
    tower = ImageTower(visual, "tiny")
    images = pixels(visual)
    hidden = tower.embed(images)
    found = tower.encode(hidden, dense=True)
    assert_same(found[:, 0], visual(images))
    if name.startswith("clip"):
        tokens = visual.ln_post(visual.transformer(visual._embeds(images)))
        patches = tokens[:, 1:] @ visual.proj
    else:
        tokens = visual.trunk.forward_features(images)
        patches = visual.head(visual.trunk.head(tokens[:, visual.trunk.num_prefix_tokens :]))
    assert_same(found[:, 1:], patches)
    prompts = [draw(2, tower.width, seed=i) for i in range(2)]
    prompted = tower.encode(hidden, prompts=prompts, dense=True)
    assert_same(prompted[:, 0], tower.encode(hidden, prompts=prompts))
    assert (prompted - found).abs()[:, 1:].max() > 1e-4
    pooling = IMAGE_TOWERS["clip-attention-pool"]()
    with pytest.raises(NotTransferable, match="pools by attention"):
        ImageTower(pooling, "tiny").encode(pixels(pooling), dense=True)


def test_every_kind_of_image_input_leads_to_the_same_features(
    backbone64: Backbone,
) -> None:
    images = pixels(backbone64.model.visual)
    features = backbone64.encode_images(images)
    assert_same(features, backbone64.model.encode_image(images))  # type: ignore[operator]
    assert torch.equal(backbone64.encode_images(images, PIXELS), images)
    pooled = backbone64.encode_images(images, POOLED)
    weights = backbone64.image.weights
    assert_same(pooled @ weights["proj"] + weights.get("proj_bias", 0), features)
    assert_same(backbone64.image.project(pooled), features)
    dense = backbone64.encode_images(images, DENSE)
    assert dense.shape[1] == 1 + (images.shape[-1] // 12) ** 2
    assert_same(dense[:, 0], features)
    hidden = backbone64.encode_images(images, ImageInput("hidden", 1))
    assert_same(backbone64.image.encode(hidden, block=1), features)


def test_resnet_gives_features_and_pixels_only(labels: Labels) -> None:
    backbone = wrap(resnet(), "resnet")
    images = torch.randn(2, 3, 32, 32)
    features = backbone.encode_images(images)
    assert torch.equal(features, backbone.model.encode_image(images))  # type: ignore[operator]
    assert torch.equal(backbone.encode_images(images, PIXELS), images)
    assert backbone.zero_shot(labels).shape == (len(labels), 16)
    for wanted in (POOLED, DENSE, ImageInput("hidden")):
        with pytest.raises(NotTransferable, match="'ModifiedResNet' is not a transformer"):
            backbone.encode_images(images, wanted)
    context = Module({"context": backbone.embed_text("a photo")})
    logits = CoOp(CoOp.Config(context_length=2)).attach(context, backbone, labels)(features)
    assert logits.shape == (2, len(labels))


@pytest.mark.parametrize(("reason", "build"), UNKNOWN_IMAGE_TOWERS)
def test_unknown_image_tower_is_refused(reason: str, build: Callable[[], Any]) -> None:
    with pytest.raises(NotTransferable, match=f"image tower of 'odd'.*{reason}"):
        ImageTower(build(), "odd")


def test_image_prompts_of_wrong_size_are_refused(clip: Backbone) -> None:
    tower = clip.image
    with pytest.raises(NotTransferable, match="width 33, not 32"):
        tower.check_prompts([torch.zeros(2, 33)])
    with pytest.raises(NotTransferable, match="3 blocks or more, not 2"):
        tower.check_prompts([torch.zeros(2, 32)] * 3)
    with pytest.raises(NotTransferable, match=r"from block 2 on.* has 2"):
        tower.embed(torch.zeros(1, 3, 24, 24), 2)
    tower.check_prompts([torch.zeros(2, 32)] * 2)
