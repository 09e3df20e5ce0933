"""Tiny models with every supported kind of text and image tower, and some that are refused."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from timm.models.eva import Eva
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed
from tiny_models import (
    CONTEXT_LENGTH,
    image_config,
    randomise,
    text_config,
    tiny_clip,
    tiny_eva_clip,
)
from torch import Tensor, nn

from compatbench.backbone.parts.from_transformers import convert_vision


def custom(seed: int = 2, **text: object) -> CustomTextCLIP:
    return randomise(CustomTextCLIP(16, image_config(), text_config(**text)), seed)  # type: ignore[arg-type, return-value]


def coca(**text: object) -> nn.Module:
    config = text_config(embed_cls=True, output_tokens=True, **text)
    decoder = dict(context_length=CONTEXT_LENGTH, vocab_size=2514, width=32, heads=2, layers=1)
    image = image_config() | dict(attentional_pool=True, attn_pooler_heads=2, output_tokens=True)
    return randomise(CoCa(16, decoder, config, image), 3)  # type: ignore[arg-type]


def _with_part(name: str, part: object, model: nn.Module | None = None) -> nn.Module:
    """Return a model, by default a CLIP, with another part at a dotted name."""
    model = model or tiny_clip()
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, part)
    return model


SIGLIP = dict(no_causal_mask=True, pool_type="last", proj_bias=True)
SIGLIP |= dict(norm_kwargs={"eps": 1e-6}, act_kwargs={"approximate": "tanh"})
# Run whole, padding included.
WHOLE: dict[str, Callable[[], nn.Module]] = {
    "SigLIP": lambda: custom(**SIGLIP),
    "CLIPA": lambda: tiny_clip(no_causal_mask=True, pool_type="last"),
    "MobileCLIP-S": lambda: custom(no_causal_mask=True),
    "CoCa": coca,
    "CoCa with the corrected mask": lambda: _with_part("text.correct_cls_mask", True, coca()),
    "bidirectional with a class token": lambda: coca(no_causal_mask=True),
    "bidirectional with hidden padding": lambda: _with_part(
        "text.use_pad_mask", True, custom(no_causal_mask=True)
    ),
    "causal, pooled at the last row": lambda: custom(pool_type="last"),
    "causal, pooled at the first row": lambda: custom(pool_type="first"),
    "normalised queries and keys": lambda: custom(qk_norm=True),
    "norms everywhere": lambda: custom(
        scale_heads=True, scale_attn_inner=True, scale_attn=True, scale_fc=True, ls_init_value=0.7
    ),
    # A missing mask must not be added: the features would be another model's.
    "without its mask": lambda: _with_part("attn_mask", None),
    "custom blocks, bidirectional": lambda: custom(block_type="custom", no_causal_mask=True),
}
# Run once for the prefix that all texts share, without padding.
SHARED: dict[str, Callable[[], nn.Module]] = {
    "CLIP": tiny_clip,
    "EVA-CLIP": custom,
    "MetaCLIP 2": lambda: custom(pool_type="eos", eos_id=2513),
    "norms of another epsilon": lambda: custom(norm_kwargs={"eps": 1e-6}),
    "tanh GELU": lambda: custom(act_kwargs={"approximate": "tanh"}),
    "layer scale": lambda: custom(ls_init_value=0.7),
    "no projection": lambda: randomise(
        CustomTextCLIP(32, image_config(), text_config(proj_type="none")),  # type: ignore[arg-type]
        2,
    ),
    "one block": lambda: custom(layers=1),
}


def _with_block_of_another_class() -> nn.Module:
    model = tiny_clip()
    block = model.transformer.resblocks[1]
    block.__class__ = type("Gated", (type(block),), {})
    return model


FULL = torch.full((CONTEXT_LENGTH, CONTEXT_LENGTH), -torch.inf)
UNKNOWN_TEXT_TOWERS: dict[str, Callable[[], nn.Module]] = {
    "block of another class": _with_block_of_another_class,
    "another key in a block": lambda: _with_part(
        "transformer.resblocks.1.attn", nn.MultiheadAttention(32, 2, add_bias_kv=True)
    ),
    "mask of zeros": lambda: _with_part("attn_mask", torch.zeros_like(FULL)),
    "mask that also hides the past": lambda: _with_part("attn_mask", FULL.triu(1) + FULL.tril(-5)),
    "no pooling": lambda: tiny_clip(pool_type="none"),
    "not a transformer": lambda: _with_part("text", nn.Linear(2, 2)),
    "more positions than tokens": lambda: _with_part(
        "positional_embedding", nn.Parameter(torch.zeros(CONTEXT_LENGTH + 1, 32))
    ),
}


def clip_tower(quick_gelu: bool = True, **changes: Any) -> nn.Module:
    model = CLIP(16, image_config() | changes, text_config(), quick_gelu=quick_gelu)  # type: ignore[arg-type]
    return randomise(model, 3).double().visual  # type: ignore[return-value]


def timm_tower(kind: Any, **changes: Any) -> nn.Module:
    """Return a tower of timm's, wrapped as open_clip does."""
    visual: Any = copy.copy(EVA_SHELL)
    visual._modules = dict(visual._modules)
    settings: Any = dict(img_size=24, patch_size=12, embed_dim=32, depth=2, num_heads=2)
    settings |= dict(num_classes=16, global_pool="token") | changes
    for setting in settings.keys() - inspect.signature(kind).parameters.keys():
        pytest.skip(f"timm {timm.__version__} has no '{setting}'")
    visual.trunk = kind(**settings)
    visual.head = nn.Sequential()
    return randomise(visual, 4).double()


EVA_SHELL = tiny_eva_clip().visual
eva_tower = partial(timm_tower, Eva, use_rot_pos_emb=True)
vit_tower = partial(timm_tower, VisionTransformer)


def _convolved(patch_size: int, **sizes: Any) -> nn.Module:
    """Return MobileCLIP's patch embedding: three convolutions."""
    stem = ConvStem(channels=(8, 8, 32), stride=(3, 2, 2), kernel_size=(3, 2, 2), act_layer=nn.GELU)
    return HybridEmbed(stem, proj=False, **sizes)


def transformers_tower() -> nn.Module:
    """Return the tower of transformers' SigLIP, converted to open_clip's parts."""
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    config = transformers.SiglipVisionConfig(**sizes, image_size=24, patch_size=12)
    vision = transformers.SiglipVisionModel(config)
    vision = getattr(vision, "vision_model", vision)  # in earlier versions of transformers
    return randomise(convert_vision(vision, config, None), 4).double()


EVA02 = dict(qkv_fused=False, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True)
IMAGE_TOWERS: dict[str, Callable[[], nn.Module]] = {
    "clip": clip_tower,
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
    "siglip": lambda: vit_tower(
        global_pool="map", class_token=False, num_classes=0, act_layer="gelu_tanh"
    ),
    "siglip-of-transformers": transformers_tower,
    "mobileclip": lambda: vit_tower(embed_layer=_convolved, no_embed_class=True),
    "vit-norms-and-layer-scale": lambda: vit_tower(
        qk_norm=True, init_values=0.5, pre_norm=True, reg_tokens=1, qkv_bias=False
    ),
    "vit-average": lambda: vit_tower(global_pool="avg"),
}


def resnet() -> nn.Module:
    vision: Any = dict(layers=(1, 1, 1, 1), width=8, image_size=32)
    model: Any = randomise(CLIP(16, vision, text_config(), quick_gelu=True), 5)  # type: ignore[arg-type]
    model.visual.preprocess_cfg = dict(size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    return model


GATE = "trunk.blocks.1.attn.gate"
SHARED_KEYS = dict(attn_type="rope", qkv_fused=False, num_kv_heads=1)
# The reason of the refusal, and the tower.
UNKNOWN_IMAGE_TOWERS: list[tuple[str, Callable[[], Any]]] = [
    ("'ModifiedResNet' is not a transformer", lambda: resnet().visual),
    ("blocks are not EVA's or timm's", lambda: vit_tower(block_fn=ParallelThingsBlock)),
    ("blocks are not open_clip's standard", lambda: clip_tower(block_type="custom")),
    ("pooled by 'none'", lambda: clip_tower(pool_type="none")),
    ("pooled by ''", lambda: eva_tower(global_pool="")),
    ("attention is not EVA-CLIP's", lambda: _with_part(GATE, nn.Linear(32, 32), eva_tower())),
    ("attention is not EVA-CLIP's", lambda: eva_tower(**SHARED_KEYS)),
    ("positions are not EVA-CLIP's", lambda: eva_tower(rope_type="mixed")),
]


def pixels(visual: Any, batch: int = 3) -> Tensor:
    """Return random images of the size of a tower, ``[batch, 3, H, W]``, in double precision."""
    if hasattr(visual, "class_embedding"):
        side = visual.image_size[0]
    else:
        side = visual.trunk.patch_embed.img_size[0]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, side, side, generator=generator, dtype=torch.float64)
