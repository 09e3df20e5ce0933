"""Handwritten digits that ship with scikit-learn: real images which need no download."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from compatbench.data.images.source import ImageSource, Sample
from compatbench.engine_version import ENGINE_VERSION
from compatbench.files.hashes import sha256_bytes, sha256_json

SIDE = 48  # pixels; the originals have 8
_FULL = 16  # the largest value in the data: a cell full of ink
# Neighbours in the data were often written by the same person, so the splits are blocks.
_BLOCKS = {"train": (0, 1000), "val": (1000, 1200), "test": (1200, 1797)}


class Digits(ImageSource):
    """The 1,797 digits of ``sklearn.datasets.load_digits``, dark on a white page.

    An image's id is its number in the data. Each is enlarged from 8 × 8 to 48 × 48 pixels.
    """

    def __init__(self, folder: Path) -> None:
        _, labels = _load()
        samples: dict[str, list[Sample]] = {}
        for split, (start, stop) in _BLOCKS.items():
            samples[split] = [
                Sample(str(number), int(labels[number])) for number in range(start, stop)
            ]
        super().__init__(folder, samples)

    def fingerprint(self, samples: Sequence[Sample]) -> str:
        cells, _ = _load()
        identities = [sample.id for sample in samples]
        return sha256_json([identities, sha256_bytes(cells.tobytes()), SIDE, ENGINE_VERSION])

    def image(self, sample: Sample) -> Image.Image:
        cells, _ = _load()
        ink = cells[int(sample.id)].astype(np.uint16) * 255 // _FULL
        page = (255 - ink).astype(np.uint8)
        small = Image.fromarray(page)
        large = small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        return large.convert("RGB")


@cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    """Return the ink in each cell, 0 to 16, ``[images, 8, 8]``, and the labels, ``[images]``."""
    from sklearn.datasets import load_digits  # slow to import

    data: Any = load_digits()
    return data.images.astype(np.uint8), data.target
