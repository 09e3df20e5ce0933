"""Are two files of vectors about the same items in the same rows? Neighbourhoods show it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compatbench.errors import CompatbenchError
from compatbench.extras.indexes.vectors import Vectors
from compatbench.results.estimate import estimate

WINDOW = 1000  # rows that are compared with each other
FEWEST = 100  # with fewer rows, chance cannot be excluded
NEIGHBOURS = 10
LEAST_SHARED = 0.01  # of the neighbours, beyond chance
Array = NDArray[Any]


def shared_neighbours(old: Array, new: Array, shift: int = 0) -> Array:
    """Return how many of its ten nearest rows a row shares on both models, beyond chance.

    Args:
        old, new: unit vectors in the same rows, ``[n, e]``.
        shift: compare row i of ``old`` with row i + shift of ``new``.

    Returns:
        The share for each row, minus the share that unrelated neighbours have, ``[n - |shift|]``.
    """
    count = len(old) - abs(shift)
    start_old = max(0, -shift)
    start_new = max(0, shift)
    nearest = []
    for vectors, start in ((old, start_old), (new, start_new)):
        vectors = vectors[start : start + count]
        scores = vectors @ vectors.T
        np.fill_diagonal(scores, -np.inf)
        nearest.append(np.argpartition(-scores, NEIGHBOURS, axis=1)[:, :NEIGHBOURS])
    same = nearest[0][:, :, None] == nearest[1][:, None, :]
    return same.any(axis=2).mean(axis=1) - NEIGHBOURS / (count - 1)


def require_aligned(old: Vectors, new: Vectors) -> None:
    """Raise an error if two files agree no better than chance, or better when shifted by a row.

    The first and the last rows are compared. They are not drawn, because gaps would hide a shift.
    """
    windows = [np.arange(min(WINDOW, old.rows))]
    if old.rows > WINDOW:
        windows.append(np.arange(max(WINDOW, old.rows - WINDOW), old.rows))
    for rows in windows:
        if len(rows) >= FEWEST:
            where = f"in rows {rows[0]:,} to {rows[-1]:,}"
            _require_aligned_rows(old, new, rows, where)


def _require_aligned_rows(old: Vectors, new: Vectors, rows: Array, where: str) -> None:
    sides = old.take_units(rows), new.take_units(rows)
    aligned = shared_neighbours(*sides)
    for shift, later in ((1, new.name), (-1, old.name)):
        shifted = shared_neighbours(*sides, shift)
        same_rows = aligned[:-1] if shift == 1 else aligned[1:]
        better = estimate(shifted - same_rows)
        if better is not None and better.sign == 1 and better.value > LEAST_SHARED:
            raise CompatbenchError(
                f"{old.name} and {new.name} are shifted by one row {where}: row i of the one "
                f"belongs to row i + 1 of {later}; is there a header, or is an item missing?"
            )
    related = estimate(aligned)
    if related is None or related.sign != 1 or related.value < LEAST_SHARED:
        raise CompatbenchError(
            f"{old.name} and {new.name} do not contain the same items in the same order: {where}, "
            "items that are neighbours on one model are neighbours on the other no more often than "
            "by chance"
        )
