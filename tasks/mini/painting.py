"""The finishing of a drawing: from an RGBA tile and a seed to an RGB image.

The suite ships drawings, not images. Every image of a task is made from its
drawing when it is read: a background colour, a colour for monochrome drawings,
a small rotation, scale, shift and tint. The seed decides all of it, so the same
row of a split always gives the same image.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

#: red, orange, yellow, green, blue, purple, pink, white, black, gray, brown, cyan
PALETTE = (
    np.array(
        [
            (220, 60, 50),
            (240, 150, 50),
            (245, 220, 90),
            (90, 180, 90),
            (80, 130, 220),
            (150, 90, 190),
            (240, 150, 190),
            (250, 250, 250),
            (25, 25, 25),
            (150, 150, 150),
            (140, 100, 70),
            (120, 210, 220),
        ],
        dtype=np.float32,
    )
    / 255
)
WHITE = 7
#: Colours on which most coloured drawings stand out.
LIGHT = (1, 2, 3, 6, 7, 9, 11)
#: Chance of a white background, and of a light one where it is not white.
WHITE_SHARE, PLAIN_SHARE = 0.45, 0.75
#: Half the full range, in degrees, in shares of the image side, and in shares of the brightness.
MAX_DEGREES, MAX_SHIFT, MAX_TINT = 9.0, 0.0625, 0.0625

_LUMA = np.array([0.3, 0.59, 0.11], dtype=np.float32)


def paint(tile: np.ndarray, monochrome: bool, seed: int) -> Image.Image:
    """Finishes one drawing.

    Args:
        tile: uint8 [48, 48, 4], RGBA.
        monochrome: Whether the drawing has no colour of its own and takes any.
        seed: Decides background, colour, position and tint.

    Returns:
        An RGB image of the tile's size.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    ground = _ground(rng)
    # Drawn for every tile, so that the rest of the image does not depend on the kind of set.
    ink = _ink(rng, ground)
    placement = _placement(rng, tile.shape[0])
    tint = 255 + (rng.random(3, dtype=np.float32) - 0.5) * (2 * MAX_TINT * 255)

    alpha = tile[..., 3:].astype(np.float32) / 255
    colour = ink if monochrome else tile[..., :3].astype(np.float32) / 255
    flat = (colour - ground) * alpha + ground
    pixels = np.minimum(flat * tint + 0.5, 255).astype(np.uint8)
    around = tuple(np.minimum(ground * tint + 0.5, 255).astype(np.uint8).tolist())
    image = Image.fromarray(pixels)
    return image.transform(
        image.size, Image.Transform.AFFINE, placement, Image.Resampling.BILINEAR, fillcolor=around
    )


def _ground(rng: np.random.Generator) -> np.ndarray:
    """The background's colour, float32 [3] in 0..1."""
    white, plain, pastel = rng.random(3)
    light = LIGHT[int(rng.integers(len(LIGHT)))]
    other = int(rng.integers(len(PALETTE)))
    colour = PALETTE[WHITE if white < WHITE_SHARE else light if plain < PLAIN_SHARE else other]
    if pastel < 0.5:
        colour = colour * 0.5 + 0.5
    return np.clip(colour + (rng.random(3, dtype=np.float32) - 0.5) * 0.12, 0, 1)


def _ink(rng: np.random.Generator, ground: np.ndarray) -> np.ndarray:
    """A colour that contrasts with the background, float32 [3] in 0..1."""
    light = float(ground @ _LUMA) > 0.5
    any_colour = rng.random(3, dtype=np.float32)
    if rng.random() < 0.3:
        return np.full(3, 0.08 if light else 0.95, dtype=np.float32)
    return any_colour * 0.55 if light else any_colour * 0.45 + 0.55


def _placement(rng: np.random.Generator, size: int) -> tuple[float, ...]:
    """The affine map from the image's pixels to the tile's, as PIL takes it."""
    turn, zoom, across, down = rng.random(4) - 0.5
    angle = math.radians(2 * MAX_DEGREES * turn)
    scale = 1 / (1 + (zoom - 0.1) * 0.225)
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    centre = size / 2
    offset_x = centre + 2 * MAX_SHIFT * across * centre - centre * (cos - sin)
    offset_y = centre + 2 * MAX_SHIFT * down * centre - centre * (sin + cos)
    return (cos, -sin, offset_x, sin, cos, offset_y)
