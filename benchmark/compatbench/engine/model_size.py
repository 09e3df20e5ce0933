"""Sizes of a backbone, from its architecture alone."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

from torch import nn

from compatbench.backbone import ImageInput
from compatbench.backbone.load import read_backbone
from compatbench.data.cache_files import default_cache_folder
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import sha256_json
from compatbench.files.kinds import require

FLOAT = 4  # bytes
BATCH = 128  # images that are encoded together
WIDEST = 6  # the hidden layer of an MLP, four times as wide, beside what enters and leaves it


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a backbone's architecture."""

    parameters: int
    embed_dim: int
    image_flops: float  # floating-point operations of one image
    text_weights: int  # parameters of the text tower's blocks
    text_blocks: int
    image_blocks: int
    batch_bytes: int  # the widest activations of one batch of images
    image_tokens: int = 0  # of one image, in the image tower
    image_width: int = 0  # of each of them
    image_side: int = 0  # pixels

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


@lru_cache(maxsize=64)
def measure_model(name: str) -> ModelSize | None:
    """The sizes of a backbone, from its architecture alone; None if that is not open_clip's.

    Its weights need not be here. Sizes are kept in the cache folder, for an architecture takes
    seconds to build.
    """
    try:
        card = read_backbone(name)
    except CompatbenchError:
        return None  # what is wrong with it is reported elsewhere
    if card.provider == "hf":
        return None
    names = [field.name for field in fields(ModelSize)]
    key = sha256_json([card.config, card.model_dump(mode="json"), names])
    path = default_cache_folder() / "model-sizes" / f"{key[:16]}.json"
    with suppress(CompatbenchError, OSError, ValueError, TypeError):
        return ModelSize(**json.loads(require(path, follow=True).read_bytes()))
    size = _build_and_measure(card)
    if size is not None:
        with suppress(CompatbenchError):  # it is built again the next time
            write_atomic(path, json.dumps(asdict(size)).encode(), sync=False)
    return size


def _build_and_measure(card: Any) -> ModelSize | None:
    from compatbench.backbone.build import build_architecture

    try:
        model = build_architecture(card, device="meta")
    except CompatbenchError:
        return None
    visual: Any = model.visual
    text: Any = model.text if isinstance(getattr(model, "text", None), nn.Module) else model
    patches = next((m for m in visual.modules() if isinstance(m, nn.Conv2d)), None)
    if patches is None:
        return None
    size, width = visual.preprocess_cfg["size"], patches.out_channels
    side = size if isinstance(size, int) else min(size)
    tokens = (side // patches.kernel_size[0]) ** 2 + 1
    projection = getattr(text, "text_projection", None)
    if isinstance(projection, nn.Linear):
        projection = projection.weight.T
    return ModelSize(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        embed_dim=width if projection is None else projection.shape[1],
        image_flops=2.0 * sum(parameter.numel() for parameter in visual.parameters()) * tokens,
        text_weights=sum(parameter.numel() for parameter in text.transformer.parameters()),
        text_blocks=_count_blocks(text.transformer),
        image_blocks=_count_blocks(visual),
        batch_bytes=BATCH * tokens * width * WIDEST * FLOAT,
        image_tokens=tokens,
        image_width=width,
        image_side=side,
    )


def _count_blocks(tower: nn.Module) -> int:
    """The length of the longest list of modules in a tower."""
    lists = [m for m in tower.modules() if isinstance(m, (nn.ModuleList, nn.Sequential))]
    return max((len(modules) for modules in lists), default=1)
