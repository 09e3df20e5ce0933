"""Result rows as a pandas frame: one row per measurement, one column per field of ``Row``.

Counts are nullable integers (``Int64``), times and calibration errors are floats, and all else is
text. Files are checked column by column: each distinct text of a column once, by the type of
its field, and then the rules that tie fields together, over all rows at once. Only a file that
fails is read again line by line, so that the message names the line and the field.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, get_type_hints

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import TypeAdapter

from compatbench.errors import CompatbenchError
from compatbench.results.rows import AnyRow, Cost, Row, check_header, read_csv

FLIPS = ("negative_flips", "positive_flips", "inconsistent_errors")
_COUNTS = ("correct", "total", "zero_shot_correct", *FLIPS)
# What follows from the counts of a row: the share, in percent, that a count is of ``total``.
FIGURES = {"accuracy": "correct", "zero_shot": "zero_shot_correct", "gain": ""}
FIGURES |= {f"{name}_share": name for name in FLIPS}
_INTEGERS = frozenset({*_COUNTS, "shots", "seed", "parameters", "module_bytes", "peak_memory"})
_REALS = frozenset({"ece", "fit_seconds", "evaluate_seconds"})


def to_frame(rows: Iterable[AnyRow], model: type[AnyRow]) -> pd.DataFrame:
    """Checked rows as a frame; ``Table`` is the way back."""
    rows = list(rows)
    return _build({name: [getattr(row, name) for row in rows] for name in model.columns})


def _build(columns: dict[str, list[Any]]) -> pd.DataFrame:
    return pd.DataFrame({name: _typed(name, values) for name, values in columns.items()})


def _typed(name: str, values: list[Any]) -> pd.Series:
    if name in _REALS:
        return pd.Series(values, dtype="float64")
    return pd.Series(values, dtype="Int64" if name in _INTEGERS else "str")


class Table(Sequence[AnyRow], Generic[AnyRow]):
    """The rows of a frame as objects, which are made when one is asked for."""

    def __init__(self, frame: pd.DataFrame, model: type[AnyRow]) -> None:
        self.frame, self._model = frame, model

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    @cached_property
    def _rows(self) -> tuple[AnyRow, ...]:
        present = self.frame.astype(object).where(self.frame.notna(), None)
        lines = zip(*(present[name].tolist() for name in self.frame.columns), strict=True)
        make = self._model.model_construct
        return tuple(make(**dict(zip(self.frame.columns, line, strict=True))) for line in lines)


def with_figures(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with ``FIGURES`` beside the counts; NaN where there are no counts."""

    def column(name: str) -> NDArray[np.float64]:
        return frame[name].to_numpy("float64", na_value=np.nan)

    return frame.assign(**{name: compute_figure(name, column) for name in FIGURES})


def compute_figure(name: str, column: Callable[[str], NDArray[np.float64]]) -> NDArray[np.float64]:
    """One of ``FIGURES`` in percent or points, from columns of counts."""
    if name == "gain":
        return compute_figure("accuracy", column) - compute_figure("zero_shot", column)
    return 100 * column(FIGURES[name]) / column("total")


def read_frames(paths: Sequence[Path], model: type[AnyRow]) -> tuple[pd.DataFrame, list[slice]]:
    """Reads results files (``Row``) or cost files (``Cost``) into one frame.

    Returns:
        The frame, and the slice of its rows for each file.

    Raises:
        CompatbenchError: a file cannot be read, or a line breaks the schema.
    """
    try:
        bodies = [_read_lines(path, model) for path in paths]
        whole = _parse([line for body in bodies for line in body], model)
    except (CompatbenchError, OSError, ValueError, csv.Error):
        # The slow way names the line, and takes what is unusual but allowed.
        bodies = [read_csv(path, model) for path in paths]
        whole = to_frame([row for body in bodies for row in body], model)
    ends = np.cumsum([0, *map(len, bodies)]).tolist()
    return whole, [slice(start, end) for start, end in pairwise(ends)]


def _read_lines(path: Path, model: type[AnyRow]) -> list[list[str]]:
    """The fields of every line, in the order of the model's columns.

    Raises:
        CompatbenchError, OSError, ValueError, csv.Error: the file is not as it was written.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        names = next(reader, [])
        check_header(names, path, model)
        lines = [line for line in reader if line]
    if any(len(line) != len(names) for line in lines):
        raise ValueError("a line has more or fewer fields than there are columns")
    if len(names) == len(model.columns):
        return lines
    missing = [index for index, name in enumerate(model.columns) if name not in names]
    for line in lines:
        for index in missing:
            line.insert(index, "")
    return lines


def _parse(lines: list[list[str]], model: type[AnyRow]) -> pd.DataFrame:
    """The frame of lines of text.

    Raises:
        ValueError: some line may break the schema.
    """
    texts = zip(*lines, strict=True) if lines else ([] for _ in model.columns)
    columns = {}
    for name, column in zip(model.columns, texts, strict=True):
        field, adapter = model.model_fields[name], _adapters(model)[name]
        known = {}
        for text in set(column):
            if text == "" and not field.is_required():
                known[text] = field.default
            else:
                known[text] = adapter.validate_python(text)
        columns[name] = [known[text] for text in column]
    frame = _build(columns)
    if model is Row and breaks_rules(frame).any():
        raise ValueError("counts of a row do not agree")
    return frame


@cache
def _adapters(model: type[Row] | type[Cost]) -> dict[str, TypeAdapter[Any]]:
    """What checks one field of a model alone, by its name."""
    hints = get_type_hints(model, include_extras=True)
    return {name: TypeAdapter(hints[name]) for name in model.columns}


def breaks_rules(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Which rows break a rule of ``Row`` that ties fields together, ``[rows]``."""
    count = {name: frame[name].to_numpy("float64", na_value=np.nan) for name in _COUNTS}
    correct, total, zero_shot, negative, positive, other = count.values()
    ok = (frame["status"] == "ok").to_numpy(bool)
    given = ~np.isnan(np.stack([*count.values(), frame["ece"].to_numpy("float64")]))
    flips = given[3:6].sum(axis=0)
    too_many = (np.maximum(correct, zero_shot) > total) | (total == 0)
    too_many |= (positive > correct) | (negative + other > total - correct)
    on_source = (frame["backbone"] == frame["source"]).to_numpy(bool)
    wrong = ~given[:3].all(axis=0) | too_many | np.isin(flips, (1, 2)) | (on_source & (flips > 0))
    return np.where(ok, wrong, given.any(axis=0))
