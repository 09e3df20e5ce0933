"""Backbones: frozen vision-language models with one interface for all kinds.

The names below are imported on first use, so that names of backbones are read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compatbench.backbone.backbone import Backbone, load_backbone
    from compatbench.backbone.image.image_tower import (
        DENSE,
        FEATURES,
        PIXELS,
        POOLED,
        ImageInput,
        ImageTower,
    )
    from compatbench.backbone.parts.blocks import BlockUpdates
    from compatbench.backbone.parts.memory import memory_budget, set_memory_budget
    from compatbench.backbone.rotated import RotatedBackbone
    from compatbench.backbone.text.prompts import Prompts
    from compatbench.data.labels import Labels

__all__ = [
    "DENSE", "FEATURES", "PIXELS", "POOLED", "Backbone", "BlockUpdates",
    "ImageInput", "ImageTower", "Labels", "Prompts", "RotatedBackbone", "load_backbone",
    "memory_budget", "set_memory_budget",
]  # fmt: skip
_PLACES = {
    "backbone.backbone": ("Backbone", "load_backbone"),
    "backbone.rotated": ("RotatedBackbone",),
    "backbone.image.image_tower": (
        "DENSE", "FEATURES", "PIXELS", "POOLED", "ImageInput", "ImageTower",
    ),
    "backbone.parts.blocks": ("BlockUpdates",),
    "backbone.parts.memory": ("memory_budget", "set_memory_budget"),
    "backbone.text.prompts": ("Prompts",),
    "data.labels": ("Labels",),
}  # fmt: skip
_MODULES = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name of ``_PLACES`` on first use, and keep it for the next."""
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(import_module(f"compatbench.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
