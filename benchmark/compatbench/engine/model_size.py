"""Sizes of backbones, from a table that ``benchmark/scale/model_sizes.py`` writes."""

from __future__ import annotations

import csv
import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

from compatbench.backbone import ImageInput
from compatbench.backbone.load import read_backbone
from compatbench.errors import CompatbenchError

FLOAT = 4  # bytes
TABLE = Path(__file__).with_name("model_sizes.csv")  # the models of open_clip and the mini ones


class ModelSize(NamedTuple):
    """Sizes of a backbone's architecture."""

    parameters: int
    embed_dim: int
    text_weights: int  # parameters of the text tower's blocks
    text_blocks: int
    image_weights: int  # parameters of the image tower
    image_blocks: int
    image_tokens: int  # of one image, in the image tower
    image_width: int  # of each of them
    image_side: int  # pixels
    gated: int  # 1 if the MLPs of the image tower have a gate, as EVA02's

    @property
    def image_flops(self) -> float:
        """Floating-point operations of one image."""
        return 2.0 * self.image_weights * self.image_tokens

    @property
    def text_numbers(self) -> float:
        """The text tower's width times its blocks; a block has 12 · width² weights."""
        return math.sqrt(self.text_weights * self.text_blocks / 12)

    def input_bytes(self, wanted: ImageInput) -> int:
        """What is stored of one image as a classifier takes it."""
        numbers = {
            "features": self.embed_dim,
            "pooled": self.image_width,
            "hidden": self.image_tokens * self.image_width,
            "dense": self.image_tokens * self.embed_dim,
            "pixels": 3 * self.image_side**2,
        }
        return numbers[wanted.kind] * (1 + wanted.views) * FLOAT


@cache
def _read_table() -> dict[str, ModelSize]:
    with TABLE.open(newline="") as file:
        _, *lines = csv.reader(file)
    return {config: ModelSize(*map(int, sizes)) for config, *sizes in lines}


@cache
def measure_model(name: str) -> ModelSize | None:
    """The sizes of a backbone, whose weights need not be here; None if the table has none."""
    try:
        return _read_table().get(read_backbone(name).config or "")
    except CompatbenchError:
        return None  # what is wrong with it is reported elsewhere
