"""Names of backbones, their weights, and the readers of weights files."""

from __future__ import annotations

from compatbench.backbone.load.backbone_names import read_backbone
from compatbench.backbone.load.find_weights import WEIGHTS_FOLDER, is_offline
from compatbench.backbone.load.tokenizer_files import locate_tokenizer
from compatbench.backbone.load.weights import locate_weights, weights_key

__all__ = [
    "WEIGHTS_FOLDER", "is_offline", "locate_tokenizer", "locate_weights", "read_backbone",
    "weights_key",
]  # fmt: skip
