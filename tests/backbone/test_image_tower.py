"""The image tower, run from any block on: equal to open_clip's and timm's own forward."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from image_reference import draw_prompts as draw
from image_reference import run_image_tower
from open_clip.model import CLIP
from tiny_models import image_config, randomise, text_config, tiny_eva_clip
from torch import Tensor, nn

from compatbench.backbone import DENSE, Backbone, BlockUpdates, ImageInput, ImageTower
from compatbench.errors import NotTransferable

EVA_SIZES = dict(img_size=24, patch_size=12, embed_dim=32, depth=2, num_heads=2, num_classes=16)


def clip_tower(quick_gelu: bool = True, **changes: Any) -> nn.Module:
    model = CLIP(16, image_config() | changes, text_config(), quick_gelu=quick_gelu)  # type: ignore[arg-type]
    return randomise(model, 3).double().visual  # type: ignore[return-value]


@cache
def _eva_shell() -> nn.Module:
    return tiny_eva_clip().visual


def eva_tower(**changes: Any) -> nn.Module:
    """timm's ``Eva`` where open_clip puts it."""
    from timm.models.eva import Eva

    visual: Any = copy.copy(_eva_shell())
    visual._modules = dict(visual._modules)
    settings = EVA_SIZES | dict(global_pool="token", use_rot_pos_emb=True) | changes
    visual.trunk, visual.head = Eva(**settings), nn.Sequential()  # type: ignore[arg-type]
    return randomise(visual, 4).double()


EVA02 = dict(qkv_fused=False, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True)
TOWERS = {
    "clip": lambda: clip_tower(),
    "clip-gelu": lambda: clip_tower(quick_gelu=False),
    "clip-without-ln-pre": lambda: clip_tower(no_ln_pre=True),
    "clip-layer-scale": lambda: clip_tower(ls_init_value=0.5),
    "clip-average": lambda: clip_tower(pool_type="avg"),
    "clip-average-then-norm": lambda: clip_tower(pool_type="avg", final_ln_after_pool=True),
    "clip-attention-pool": lambda: clip_tower(attentional_pool=True, attn_pooler_heads=2),
    "eva-mini": lambda: tiny_eva_clip().double().visual,
    "eva02": lambda: eva_tower(**EVA02),
    "eva01": lambda: eva_tower(use_rot_pos_emb=False),
    "eva-without-bias": lambda: eva_tower(qkv_bias=False),
    "eva-average": lambda: eva_tower(global_pool="avg"),
    "eva-post-norm": lambda: eva_tower(use_post_norm=True),
    "eva-layer-scale": lambda: eva_tower(init_values=0.5),
    "eva-registers": lambda: eva_tower(num_reg_tokens=2),
    "eva-pre-norm-and-map": lambda: eva_tower(
        attn_type="rope", use_pre_transformer_norm=True, global_pool="map", qk_norm=True
    ),
}


@pytest.fixture(scope="module", params=TOWERS)
def visual(request: pytest.FixtureRequest) -> Any:
    return TOWERS[request.param]()


def pixels(visual: Any, batch: int = 3, seed: int = 0) -> Tensor:
    side = visual.image_size[0] if hasattr(visual, "class_embedding") else 0
    side = side or visual.trunk.patch_embed.img_size[0]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, side, side, generator=generator, dtype=torch.float64)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_from_any_block_it_equals_the_model_s_own_forward(visual: Any) -> None:
    tower, images = ImageTower(visual, "tiny"), pixels(visual)
    expected = visual(images)
    for block in range(tower.depth):
        hidden = tower.embed(images, block)
        assert hidden.shape == (3, tower.tokens, tower.width)
        assert_same(tower.encode(hidden, block=block), expected)


@pytest.mark.parametrize("counts", [[2], [1, 3]], ids=str)
def test_prompts_equal_the_tower_s_own_blocks_over_all_tokens(
    visual: Any, counts: list[int]
) -> None:
    tower, images = ImageTower(visual, "tiny"), pixels(visual)
    prompts = [draw(n, tower.width, seed=i + 1) for i, n in enumerate(counts)]
    inserted = [tower.enter(prompts[0]), *prompts[1:]]
    found = tower.encode(tower.embed(images), prompts=inserted)
    expected = run_image_tower(visual, images, prompts)
    assert_same(found, expected)
    assert (found - visual(images)).abs().max() > 1e-4

    weight = draw(*expected.shape, seed=9).detach()
    gradients = [torch.autograd.grad((weight * x).sin().sum(), prompts) for x in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


def test_prompts_of_an_inner_block_of_no_rows_and_of_each_image(visual: Any) -> None:
    tower, images = ImageTower(visual, "tiny"), pixels(visual)
    hidden = tower.embed(images)
    inner = [draw(2, tower.width, seed=i) for i in range(tower.depth - 1)]
    found = tower.encode(tower.embed(images, 1), block=1, prompts=inner)
    assert_same(found, run_image_tower(visual, images, [draw(0, tower.width), *inner]))

    empty = [draw(0, tower.width)] * tower.depth
    assert_same(tower.encode(hidden, prompts=empty), visual(images))

    own = [draw(3, 2, tower.width, seed=i) for i in range(2)]
    alone = [tower.encode(hidden[i : i + 1], prompts=[p[i] for p in own]) for i in range(3)]
    assert_same(tower.encode(hidden, prompts=own), torch.cat(alone))


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_an_update_equals_the_merged_weight(visual: Any, part: Any) -> None:
    tower, images = ImageTower(visual, "tiny"), pixels(visual)
    down, up = draw(2, tower.width, seed=1), draw(tower.width, 2, seed=2)
    merged: Any = copy.deepcopy(visual)
    place = ["q", "k", "v"].index(part)
    with torch.no_grad():
        if hasattr(merged, "class_embedding"):
            weight = merged.transformer.resblocks[1].attn.in_proj_weight
        else:
            attention = merged.trunk.blocks[1].attn
            weight = (attention.qkv or getattr(attention, f"{part}_proj")).weight
        rows = weight if len(weight) == tower.width else weight.chunk(3)[place]
        rows += up @ down
    updates: BlockUpdates = {(1, part): lambda y, x: y + x @ down.T @ up.T}
    found = tower.encode(tower.embed(images, 1), block=1, block_updates=updates)
    assert_same(found, merged(images))
    found.sin().sum().backward()
    assert down.grad is not None
    assert down.grad.abs().max() > 0


def test_replaced_weights_are_those_that_count(visual: Any) -> None:
    tower, images = ImageTower(visual, "tiny"), pixels(visual)
    before = {name: tensor.clone() for name, tensor in visual.named_parameters()}
    changed: Any = copy.deepcopy(visual)
    weights = {}
    common = {tensor.data_ptr(): name for name, tensor in tower.weights.items()}
    own = dict(visual.named_parameters())
    for i, (name, tensor) in enumerate(changed.named_parameters()):
        if "bias" in name and ".1." in name and own[name].data_ptr() in common:
            weight = tensor.detach() + 0.3 * draw(*tensor.shape, seed=i)
            weights[common[own[name].data_ptr()]] = weight
            tensor.data.copy_(weight)
    assert weights
    hidden = tower.embed(images)
    found = tower.encode(hidden, weights=weights)
    assert_same(found, changed(images))
    assert (found - tower.encode(hidden)).abs().max() > 1e-4
    assert all(torch.equal(before[name], tensor) for name, tensor in visual.named_parameters())


@pytest.mark.parametrize("name", ["clip", "clip-average", "eva-mini", "eva-registers"])
def test_dense_features_are_the_feature_and_every_patch_projected(name: str) -> None:
    visual: Any = TOWERS[name]()
    tower, images = ImageTower(visual, "tiny"), pixels(visual)
    found = tower.encode(tower.embed(images), dense=True)
    assert_same(found[:, 0], visual(images))
    if name.startswith("clip"):
        tokens = visual.ln_post(visual.transformer(visual._embeds(images)))
        patches = tokens[:, 1:] @ visual.proj
    else:
        tokens = visual.trunk.forward_features(images)
        patches = visual.head(visual.trunk.head(tokens[:, visual.trunk.num_prefix_tokens :]))
    assert_same(found[:, 1:], patches)


def test_dense_features_see_the_prompts_and_need_a_pooled_row() -> None:
    tower, images = ImageTower(TOWERS["clip"](), "tiny"), pixels(TOWERS["clip"]())
    prompts = [draw(2, tower.width, seed=i) for i in range(2)]
    dense = tower.encode(tower.embed(images), prompts=prompts, dense=True)
    assert_same(dense[:, 0], tower.encode(tower.embed(images), prompts=prompts))
    assert (dense - tower.encode(tower.embed(images), dense=True)).abs()[:, 1:].max() > 1e-4
    tower = ImageTower(TOWERS["clip-attention-pool"](), "tiny")
    with pytest.raises(NotTransferable, match="pools by attention"):
        tower.encode(tower.embed(images), dense=True)


def _resnet() -> nn.Module:
    return CLIP(16, dict(layers=(1, 1, 1, 1), width=8, image_size=32), text_config()).visual  # type: ignore[arg-type]


def _siglip() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    visual: Any = eva_tower()
    visual.trunk = VisionTransformer(24, 12, embed_dim=32, depth=1, num_heads=2, num_classes=0)
    return visual


def _gated() -> nn.Module:
    visual: Any = eva_tower()
    visual.trunk.blocks[1].attn.gate = nn.Linear(32, 32)
    return visual


SHARED_KEYS = dict(attn_type="rope", qkv_fused=False, num_kv_heads=1)
REFUSED = [
    ("neither CLIP's nor EVA's", _resnet),
    ("'VisionTransformer' is neither", _siglip),
    ("blocks are not open_clip's standard", lambda: clip_tower(block_type="custom")),
    ("pooled by 'none'", lambda: clip_tower(pool_type="none")),
    ("pooled by ''", lambda: eva_tower(global_pool="")),
    ("attention is not EVA-CLIP's", _gated),
    ("attention is not EVA-CLIP's", lambda: eva_tower(**SHARED_KEYS)),
    ("positions are not EVA-CLIP's", lambda: eva_tower(rope_type="mixed")),
]


@pytest.mark.parametrize(("reason", "build"), REFUSED)
def test_a_tower_that_is_not_understood_is_refused(
    reason: str, build: Callable[[], nn.Module]
) -> None:
    with pytest.raises(NotTransferable, match=f"image tower of 'odd'.*{reason}"):
        ImageTower(build(), "odd")


def test_prompts_without_a_place_are_refused(clip: Backbone) -> None:
    tower = clip.image
    with pytest.raises(NotTransferable, match="width 33, not 32"):
        tower.check_prompts([torch.zeros(2, 33)])
    with pytest.raises(NotTransferable, match="3 blocks or more, not 2"):
        tower.check_prompts([torch.zeros(2, 32)] * 3)
    with pytest.raises(NotTransferable, match=r"from block 2 on.* has 2"):
        tower.embed(torch.zeros(1, 3, 24, 24), 2)
    tower.check_prompts([torch.zeros(2, 32)] * 2)


def test_a_backbone_gives_what_is_wanted(backbone64: Backbone) -> None:
    images = pixels(backbone64.model.visual)
    features = backbone64.encode_images(images)
    assert_same(features, backbone64.model.encode_image(images))  # type: ignore[operator]
    hidden = backbone64.encode_images(images, ImageInput("hidden", 1))
    assert_same(backbone64.image.encode(hidden, block=1), features)
    dense = backbone64.encode_images(images, DENSE)
    assert dense.shape[1] == 1 + (images.shape[-1] // 12) ** 2
    assert_same(dense[:, 0], features)
