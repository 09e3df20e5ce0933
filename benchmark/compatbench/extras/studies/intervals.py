"""Intervals beside those of ``results.estimate``: of correlations, and of crossed samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from compatbench.results.estimate import (
    SEED,
    Array,
    Interval,
    draw_resamples,
    estimate,
    percentile_interval,
)


def spearman_interval(x: ArrayLike, y: ArrayLike) -> Interval | None:
    """Spearman's rank correlation of pairs ``[units]``, with an interval over the units.

    None if it is not defined: fewer than three pairs, or one side is constant.
    """
    pairs = {"x": np.asarray(x), "y": np.asarray(y)}
    return estimate(pairs, statistic=_spearman) if len(pairs["x"]) > 2 else None


def _spearman(x: Array, y: Array) -> Array:
    """Pearson's correlation of the ranks of both sides; NaN where one is constant."""
    from scipy.stats import rankdata

    x, y = rankdata(x, axis=-1), rankdata(y, axis=-1)
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    norms = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    products = (x * y).sum(axis=-1)
    return np.divide(products, norms, out=np.full(norms.shape, np.nan), where=norms > 0)


def crossed_interval(tables: Sequence[Array], statistic: Callable[..., float]) -> Interval:
    """A statistic of tables whose rows and columns are both samples.

    Columns (datasets) are the same in all tables, each ``[rows, columns]``, and are drawn
    together; the rows (methods) of each table are drawn by themselves. So what differs from
    method to method counts as chance, too, not only what differs from dataset to dataset.
    """
    value, columns = float(statistic(*tables)), tables[0].shape[1]
    if columns == 1:
        return Interval(value)
    on_rows = [draw_resamples(len(table), seed=SEED + i) for i, table in enumerate(tables, 1)]
    resampled = []
    for i, drawn in enumerate(draw_resamples(columns)):
        parts = [table[rows[i]][:, drawn] for table, rows in zip(tables, on_rows, strict=True)]
        resampled.append(statistic(*parts))
    return percentile_interval(value, resampled)
