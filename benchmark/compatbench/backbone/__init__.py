"""A backbone: one frozen vision-language model, seen the same way whatever it is."""

from __future__ import annotations

from compatbench.backbone.backbone import Backbone, load_backbone
from compatbench.backbone.changed import DroppingBackbone, RotatedBackbone
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
from compatbench.backbone.text.prompts import Prompts
from compatbench.data.labels import Labels

__all__ = [
    "DENSE", "FEATURES", "PIXELS", "POOLED", "Backbone", "BlockUpdates", "DroppingBackbone",
    "ImageInput", "ImageTower", "Labels", "Prompts", "RotatedBackbone", "load_backbone",
    "memory_budget", "set_memory_budget",
]  # fmt: skip
