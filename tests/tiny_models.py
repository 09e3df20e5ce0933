"""Builders of tiny random models, through open_clip's own classes."""

from __future__ import annotations

from collections.abc import Callable

from open_clip.model import CLIP, CustomTextCLIP

from compatbench.backbone.load.mini_towers import register_mini_towers
from compatbench.extras.check.models import randomise, wrap
from compatbench.files.project_folders import tasks_folder
from compatbench.method import FewShotData

VOCABULARY = 2514  # of tasks/mini/tokenizer.txt.gz
CONTEXT_LENGTH = 32

__all__ = ["MakeData", "randomise", "tiny_clip", "tiny_eva_clip", "wrap"]

MakeData = Callable[..., FewShotData]


def text_config(width: int = 32, **changes: object) -> dict[str, object]:
    sizes = dict(context_length=CONTEXT_LENGTH, vocab_size=VOCABULARY, heads=2, layers=3)
    return {**sizes, "width": width, **changes}


def image_config(layers: int = 2) -> dict[str, object]:
    return dict(image_size=24, patch_size=12, width=32, head_width=16, layers=layers)


def tiny_clip(
    seed: int = 1, width: int = 32, embed_dim: int = 16, image_layers: int = 2, **text: object
) -> CLIP:
    """Return a CLIP with QuickGELU, as OpenAI's."""
    image = image_config(image_layers)
    model = CLIP(embed_dim, image, text_config(width, **text), quick_gelu=True)  # type: ignore[arg-type]
    model.visual.preprocess_cfg = dict(size=24, mean=(0.5,) * 3, std=(0.25,) * 3)  # type: ignore[assignment]
    return randomise(model, seed)  # type: ignore[return-value]


def tiny_eva_clip(seed: int = 2, width: int = 32, embed_dim: int = 16) -> CustomTextCLIP:
    """Return a CustomTextCLIP with exact GELU and the mini suite's EVA-02 image tower."""
    register_mini_towers(tasks_folder())
    image = dict(image_size=48, timm_model_name="eva02_mini_patch12_clip_48", timm_pool="token")
    image |= dict(timm_proj="linear", timm_model_pretrained=False)
    model = CustomTextCLIP(embed_dim, image, text_config(width))  # type: ignore[arg-type]
    model.visual.preprocess_cfg = dict(size=48, mean=(0.5,) * 3, std=(0.25,) * 3)  # type: ignore[assignment]
    return randomise(model, seed)  # type: ignore[return-value]
