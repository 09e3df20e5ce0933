"""The finishing of painting.py for whole batches in torch, as pre-training uses it.

Drawings get a background, monochrome ones a colour, all of them a small rotation,
scale, shift and tint. Pre-training may ask for more of it than the tasks have.
"""

from __future__ import annotations

import math

import numpy as np
import open_clip
import torch
import torch.nn.functional as F

from ..painting import (
    LIGHT,
    MAX_DEGREES,
    MAX_SHIFT,
    MAX_TINT,
    PALETTE,
    PLAIN_SHARE,
    WHITE,
    WHITE_SHARE,
)

MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(1, 3, 1, 1)
STD = torch.tensor(open_clip.OPENAI_DATASET_STD).view(1, 3, 1, 1)
LUMA = torch.tensor([0.3, 0.59, 0.11])


def finish(
    tiles: torch.Tensor,
    monochrome: torch.Tensor,
    rng: np.random.Generator,
    strength: float,
    grey_share: float = 0.0,
) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Turns drawings into images that a tower takes.

    Args:
        tiles: uint8 [B, 48, 48, 4], RGBA.
        monochrome: bool [B].
        rng: Decides everything random.
        strength: Of the geometric and colour changes; 1 doubles what the tasks have.
        grey_share: Share of the coloured drawings that lose their colours.

    Returns:
        Normalised images, float32 [B, 3, 48, 48]; the index of each background's
        colour in the palette, int64 [B]; and of the nearest colour to each ink, -1
        for drawings with colours of their own.
    """
    batch, size = tiles.shape[0], tiles.shape[1]

    def uniform(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.random(shape, dtype=np.float32))

    pixels = tiles.permute(0, 3, 1, 2).float() / 255
    alpha, colour = pixels[:, 3:], pixels[:, :3]

    any_colour = np.where(
        rng.random(batch) < PLAIN_SHARE,
        rng.choice(LIGHT, batch),
        rng.integers(0, len(PALETTE), batch),
    )
    background = np.where(rng.random(batch) < WHITE_SHARE, WHITE, any_colour)
    ground = torch.from_numpy(PALETTE[background])
    pastel = (uniform(batch, 1) < 0.5).float() * 0.5
    ground = (ground * (1 - pastel) + pastel + (uniform(batch, 3) - 0.5) * 0.12).clamp(0, 1)

    light = (ground * LUMA).sum(1, keepdim=True) > 0.5
    ink = uniform(batch, 3) * torch.where(light, 0.55, 0.45) + torch.where(light, 0.0, 0.55)
    plain_ink = torch.where(light, 0.08, 0.95).expand_as(ink)
    ink = torch.where(uniform(batch, 1) < 0.3, plain_ink, ink)
    grey = (colour * LUMA.view(1, 3, 1, 1)).sum(1, keepdim=True).expand_as(colour)
    colour = torch.where(uniform(batch, 1, 1, 1) < grey_share, grey, colour)
    colour = torch.where(monochrome.view(batch, 1, 1, 1), ink.view(batch, 3, 1, 1), colour)

    nearest = torch.cdist(ink.view(batch, 3), torch.from_numpy(PALETTE)).argmin(1)
    inks = torch.where(monochrome, nearest, -1).numpy()

    angle = (uniform(batch) - 0.5) * 2 * math.radians(2 * MAX_DEGREES) * strength
    zoom = 1 / (1 + (uniform(batch) - 0.6) * 0.45 * strength)
    shift = (uniform(batch, 2) - 0.5) * 4 * MAX_SHIFT * strength
    matrix = torch.zeros(batch, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = torch.cos(angle) * zoom
    matrix[:, 0, 1] = -torch.sin(angle) * zoom
    matrix[:, 1, 0] = torch.sin(angle) * zoom
    matrix[:, :, 2] = shift
    grid = F.affine_grid(matrix, [batch, 4, size, size], align_corners=False)
    # Colours are multiplied by alpha first, so that edges do not take on the colour of nothing.
    moved = F.grid_sample(torch.cat([colour * alpha, alpha], 1), grid, align_corners=False)
    image = moved[:, :3] + (1 - moved[:, 3:]) * ground.view(batch, 3, 1, 1)
    tint = 1 + (uniform(batch, 3) - 0.5) * 4 * MAX_TINT * strength
    image = (image * tint.view(batch, 3, 1, 1)).clamp(0, 1)
    return normalise(image), background, inks


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Applies CLIP's mean and deviation to images in 0..1, float [B, 3, H, W]."""
    return (images - MEAN) / STD
