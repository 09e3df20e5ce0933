"""Builders of tiny random models, through open_clip's own classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

from compatbench.backbone import Backbone
from compatbench.backbone.mini import register_mini_towers
from compatbench.cards import BackboneCard, tasks_folder
from compatbench.method import FewShotData

VOCABULARY = 2514  # of tasks/mini/tokenizer.txt.gz
CONTEXT_LENGTH = 32

MakeData = Callable[..., FewShotData]


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Gives every parameter a value that no shortcut could pass for: no zero bias, no unit norm."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name == "logit_scale":
                parameter.fill_(3.0 + 0.1 * seed)
            elif parameter.ndim == 1:
                parameter.copy_(noise * 0.2 + float("bias" not in name))
            elif "embedding" in name:
                parameter.copy_(noise * 0.3)
            else:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
    return model.eval().requires_grad_(False)


def text_config(width: int = 32, **changes: object) -> dict[str, object]:
    sizes = dict(context_length=CONTEXT_LENGTH, vocab_size=VOCABULARY, heads=2, layers=3)
    return {**sizes, "width": width, **changes}


def image_config() -> dict[str, object]:
    return dict(image_size=24, patch_size=12, width=32, head_width=16, layers=2)


def tiny_clip(seed: int = 1, width: int = 32, embed_dim: int = 16, **text: object) -> CLIP:
    """A CLIP with QuickGELU, as OpenAI's."""
    model = CLIP(embed_dim, image_config(), text_config(width, **text), quick_gelu=True)  # type: ignore[arg-type]
    model.visual.preprocess_cfg = dict(size=24, mean=(0.5,) * 3, std=(0.25,) * 3)  # type: ignore[assignment]
    return randomise(model, seed)  # type: ignore[return-value]


def tiny_eva_clip(seed: int = 2, width: int = 32, embed_dim: int = 16) -> CustomTextCLIP:
    """A CustomTextCLIP with exact GELU and the mini suite's EVA-02 image tower."""
    register_mini_towers(tasks_folder())
    image = dict(image_size=48, timm_model_name="eva02_mini_patch12_clip_48", timm_pool="token")
    image |= dict(timm_proj="linear", timm_model_pretrained=False)
    model = CustomTextCLIP(embed_dim, image, text_config(width))  # type: ignore[arg-type]
    model.visual.preprocess_cfg = dict(size=48, mean=(0.5,) * 3, std=(0.25,) * 3)  # type: ignore[assignment]
    return randomise(model, seed)  # type: ignore[return-value]


def wrap(model: nn.Module, name: str) -> Backbone:
    card = BackboneCard(
        name=name,
        title=name,
        config=name,
        weights="none.safetensors",
        sha256="0" * 64,
        tokenizer="mini/tokenizer.txt.gz",
        licence="none",
    )
    return Backbone(card, model, torch.device("cpu"))
