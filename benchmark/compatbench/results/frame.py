"""Result rows as a pandas frame: one row per measurement, one column per field of ``Row``.

Counts are nullable integers (``Int64``), times and calibration errors are floats, and all else is
text. Every row has been checked when it was read: for files of this size pydantic, line by line,
is as fast as checks by column, and its messages name the line and the field.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from compatbench.results.rows import AnyRow

FLIPS = ("negative_flips", "positive_flips", "inconsistent_errors")
_COUNTS = ("correct", "total", "zero_shot_correct", *FLIPS)
_INTEGERS = frozenset({*_COUNTS, "shots", "seed", "parameters", "module_bytes", "peak_memory"})
_REALS = frozenset({"ece", "fit_seconds", "evaluate_seconds"})


def to_frame(rows: Iterable[AnyRow], model: type[AnyRow]) -> pd.DataFrame:
    """Rows as a frame with the columns of their model."""
    rows = list(rows)
    columns = {}
    for name in model.columns:
        dtype = "Int64" if name in _INTEGERS else "float64" if name in _REALS else "str"
        columns[name] = pd.Series([getattr(row, name) for row in rows], dtype=dtype)
    return pd.DataFrame(columns)


def with_figures(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with what follows from the counts of a row; NaN where there are none.

    ``accuracy`` and ``zero_shot`` are in percent, ``gain`` is their difference in points, and
    ``negative_flips_share`` and the like are shares of the images in percent.
    """
    count = {name: frame[name].to_numpy("float64", na_value=np.nan) for name in _COUNTS}
    percent = {name: 100 * values / count["total"] for name, values in count.items()}
    accuracy, zero_shot = percent["correct"], percent["zero_shot_correct"]
    shares = {f"{name}_share": percent[name] for name in FLIPS}
    gain = accuracy - zero_shot
    return frame.assign(accuracy=accuracy, zero_shot=zero_shot, gain=gain, **shares)
