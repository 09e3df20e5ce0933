"""Random matrices of the tests."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def orthonormal(rows: int, columns: int, seed: int) -> Tensor:
    """Semi-orthogonal ``[rows, columns]``."""
    tall = torch.linalg.qr(draw(max(rows, columns), min(rows, columns), seed)).Q
    return tall if rows >= columns else tall.T
