"""Looks for drawings that are nearly the same in two places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from .corpus import pretraining_table
from .reading import sheet
from .render import load_drawings
from .sets import Role

#: Correlation of the grey pixels from which two drawings count as nearly the same.
NEARLY_SAME = 0.97
_SIDE = 24


def fingerprints(tiles: np.ndarray) -> torch.Tensor:
    """Grey pixels on white with zero mean and unit length.

    Args:
        tiles: uint8 [N, 48, 48, 4], RGBA.

    Returns:
        float [N, 576]; the product of two rows is their correlation.
    """
    parts = []
    for part in torch.from_numpy(np.ascontiguousarray(tiles)).split(4096):
        pixels = part.float() / 255
        grey = pixels[..., :3] @ torch.tensor([0.3, 0.59, 0.11])
        flat = grey * pixels[..., 3] + 1 - pixels[..., 3]
        small = F.adaptive_avg_pool2d(flat[:, None], _SIDE).flatten(1)
        parts.append(F.normalize(small - small.mean(1, keepdim=True), dim=1))
    return torch.cat(parts)


def split_fingerprints(rows: pd.DataFrame) -> torch.Tensor:
    """Fingerprints of the distinct drawings in some rows of a split."""
    distinct = rows.drop_duplicates(["set", "tile"])
    return fingerprints(np.stack([sheet(r.set)[r.tile] for r in distinct.itertuples()]))


def pretraining_fingerprints(work: Path, *roles: Role) -> torch.Tensor:
    """Fingerprints of a pre-training corpus."""
    return fingerprints(load_drawings(work, pretraining_table(work, *roles)))


def share_nearly_same(drawings: torch.Tensor, others: torch.Tensor) -> float:
    """Percent of drawings, float [N, D], with a near-copy among the others, float [M, D]."""
    best = torch.cat([(part @ others.T).amax(1) for part in drawings.split(256)])
    return (best > NEARLY_SAME).float().mean().item() * 100
