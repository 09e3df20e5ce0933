"""Find images that show the same picture, whatever their size, format and compression.

Each image is shrunk to 16 × 16 grey pixels. For photos, these differ by 1 to 2 levels (root mean
square) after the image was saved again, smaller or compressed more, and by 10 or more between
different images.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16  # pixels
SAME = 3.0  # levels of 255; less is the same picture
BLOCK = 512  # images that are compared with all others at once

Pixels = NDArray[np.float32]


def shrink(image: Image.Image) -> Pixels:
    """Return an image as few pixels, ``[SIDE * SIDE]``."""
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).ravel()


def find_pairs(pixels: Mapping[str, Pixels]) -> list[tuple[str, str]]:
    """Return the pairs of images that show the same picture, by their names.

    Args:
        pixels: what ``shrink`` returned for each image.
    """
    names = [*pixels]
    if len(names) < 2:
        return []
    rows = np.stack([pixels[name] for name in names]) - 127.5
    squares = (rows**2).sum(axis=1)
    limit = SAME**2 * rows.shape[1]
    pairs = []
    for start in range(0, len(names), BLOCK):
        block = slice(start, start + BLOCK)
        distances = squares[block, None] + squares - 2 * rows[block] @ rows.T
        for first, second in np.argwhere(distances < limit):
            if start + first < second:
                pairs.append((names[start + first], names[second]))
    return pairs
