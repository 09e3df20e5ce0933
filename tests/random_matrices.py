"""Random matrices of the tests."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def orthonormal(rows: int, columns: int, seed: int) -> Tensor:
    """Return a semi-orthogonal matrix ``[rows, columns]``."""
    tall = torch.linalg.qr(draw(max(rows, columns), min(rows, columns), seed=seed)).Q
    return tall if rows >= columns else tall.T
