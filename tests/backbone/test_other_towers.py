"""Towers that are not causal, or not pooled at the end of text, equal open_clip's own forward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CustomTextCLIP
from open_clip_reference import assert_same, draw, encode_texts
from tiny_models import CONTEXT_LENGTH, image_config, randomise, text_config, tiny_clip, wrap
from torch import nn

from compatbench.backbone import Backbone, Labels, memory_budget
from compatbench.backbone.text.causal import CausalTower
from compatbench.backbone.text.tower import PlainTower
from compatbench.errors import CompatbenchError

NAMES = ("xylophone", "dog", "a very old small blue boat", "fire engine", "tree")
LABELS = Labels(NAMES, ("a photo of a {}.",), "a photo of a {}.")


def custom(seed: int = 2, **text: object) -> CustomTextCLIP:
    return randomise(CustomTextCLIP(16, image_config(), text_config(**text)), seed)  # type: ignore[arg-type, return-value]


def coca(**text: object) -> nn.Module:
    config = text_config(embed_cls=True, output_tokens=True, **text)
    decoder = dict(context_length=CONTEXT_LENGTH, vocab_size=2514, width=32, heads=2, layers=1)
    image = image_config() | dict(attentional_pool=True, attn_pooler_heads=2, output_tokens=True)
    return randomise(CoCa(16, decoder, config, image), 3)  # type: ignore[arg-type]


def with_pad_mask() -> nn.Module:
    model = custom(no_causal_mask=True)
    model.text.use_pad_mask = True
    return model


def with_corrected_class_mask() -> nn.Module:
    model = coca()
    model.text.correct_cls_mask = True  # type: ignore[union-attr]
    return model


SIGLIP = dict(no_causal_mask=True, pool_type="last", proj_bias=True)
SIGLIP |= dict(norm_kwargs={"eps": 1e-6}, act_kwargs={"approximate": "tanh"})
WHOLE = {
    "SigLIP": lambda: custom(**SIGLIP),
    "CLIPA": lambda: tiny_clip(no_causal_mask=True, pool_type="last"),
    "MobileCLIP-S": lambda: custom(no_causal_mask=True),
    "CoCa": coca,
    "CoCa with the corrected mask": with_corrected_class_mask,
    "bidirectional with a class token": lambda: coca(no_causal_mask=True),
    "bidirectional with hidden padding": with_pad_mask,
    "causal, pooled at the last row": lambda: custom(pool_type="last"),
    "causal, pooled at the first row": lambda: custom(pool_type="first"),
    "normalised queries and keys": lambda: custom(qk_norm=True),
    "norms everywhere": lambda: custom(
        scale_heads=True, scale_attn_inner=True, scale_attn=True, scale_fc=True, ls_init_value=0.7
    ),
    "custom blocks, bidirectional": lambda: custom(block_type="custom", no_causal_mask=True),
}
SHARED = {
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


def build(kind: str) -> Backbone:
    return wrap((WHOLE | SHARED)[kind]().double(), "a-kind")


@pytest.mark.parametrize("kind", WHOLE | SHARED)
def test_texts_equal_encode_text(kind: str) -> None:
    backbone = build(kind)
    # "!" has token id 0, which open_clip takes for padding where it hides that.
    texts = [*(f"a photo of a {name}." for name in NAMES), "", "a dog ! and a tree", "!"]
    found = backbone.text_features(tuple(texts))
    torch.testing.assert_close(found, encode_texts(backbone, texts), rtol=1e-10, atol=1e-10)
    assert type(backbone.text._tower) is (CausalTower if kind in SHARED else PlainTower)


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("kind", WHOLE | SHARED)
def test_learned_prompts_equal_encode_text(kind: str, own: bool) -> None:
    backbone = build(kind)
    context = draw(*([len(NAMES)] if own else []), 4, 32)
    expected = encode_texts(backbone, [f"X X X X {name}." for name in NAMES], context)
    for budget in (None, 0):
        with memory_budget(budget):
            found = backbone.encode_prompts(backbone.prompts(LABELS, context))
            if kind == "causal, pooled at the first row":  # which never sees the context
                torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
            else:
                assert_same(found, expected, [context])


def gated() -> nn.Module:
    model = tiny_clip()
    block = model.transformer.resblocks[1]
    block.__class__ = type("Gated", (type(block),), {})
    return model


def with_extra_key() -> nn.Module:
    model = tiny_clip()
    model.transformer.resblocks[1].attn = nn.MultiheadAttention(32, 2, add_bias_kv=True)
    return model


@pytest.mark.parametrize("build", [gated, with_extra_key])
def test_a_block_that_is_not_open_clips_is_refused(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(CompatbenchError, match="its blocks are not open_clip's"):
        wrap(build(), "odd")
