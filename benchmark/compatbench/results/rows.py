"""The table of results: a line of a result file, checked, and many of them as a pandas frame.

A row is one record: a fitted module at one backbone on one test set. It keeps counts instead of
percentages, so nothing is rounded. Times differ from run to run, so they are in ``costs.csv``,
under the same keys. In a frame, counts are nullable integers (``Int64``), times and calibration
errors are floats, and everything else is text.
"""

from __future__ import annotations

import csv
import io
from collections import namedtuple
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_type_hints

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)

from compatbench.data.cards import COPIED, BackboneName, ConfigName, Name
from compatbench.data.cards.shots import Shots, show_shots
from compatbench.engine.cell import KEY_DIGITS, Reason, Status
from compatbench.errors import CompatbenchError
from compatbench.messages import first_line, first_problem
from compatbench.results.measures import list_measures

Key = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{KEY_DIGITS}}}$")]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Real = Annotated[float, Field(allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63)]  # in columns of 64-bit integers
TransferName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_+-]{0,60}$")]
STRICT = ConfigDict(frozen=True, extra="forbid")

MEASURES = list_measures("answers")
_COUNTS = {name for name, one in MEASURES.items() if one.unit == "images"}
_INTEGERS = frozenset({*_COUNTS, "shots", "seed", "parameters", "module_bytes", "peak_memory"})
_REALS = frozenset({*MEASURES, "prompt_diversity", "fit_seconds", "evaluate_seconds"} - _COUNTS)
# Files leave these columns out if no line has a value.
_LATER = {name for name, measure in MEASURES.items() if not measure.standard}
_OPTIONAL = frozenset({*_LATER, "peak_memory", "prompt_diversity"})


_KINDS: dict[str, Any] = {"images": Count, "percent": Percent}
_FIGURES: dict[str, Any] = {
    name: (_KINDS.get(measure.unit, Real) | None, None) for name, measure in MEASURES.items()
}


class Row(create_model("Figures", __config__=STRICT, **_FIGURES)):
    """One line of a results file: a module at one backbone on one test set, and its cell."""

    columns: ClassVar[tuple[str, ...]] = (
        "method",
        "transfer",
        "task",
        "test_set",
        "source",
        "backbone",
        "shots",
        "seed",
        "status",
        *MEASURES,
        "prompt_diversity",
        "parameters",
        "module_bytes",
        "reason",
        "key",
        "data",
    )
    # The columns that identify a line of a file and give the order of the lines.
    place: ClassVar[list[str]] = [
        "transfer",
        "task",
        "source",
        "shots",
        "seed",
        "backbone",
        "test_set",
    ]

    method: ConfigName
    transfer: TransferName = COPIED
    task: Name
    test_set: Name  # the task itself, or a variant of it
    source: BackboneName  # that the module was fitted on; equal to ``backbone`` on the source
    backbone: BackboneName
    shots: Shots
    seed: Seed
    status: Status
    correct: Count | None = None  # images classified right by the module
    total: Count | None = None
    # As the function ``prompt_diversity`` gives it; None for methods whose context has fewer than
    # two vectors.
    prompt_diversity: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    parameters: Count = 0  # numbers that the fit determined
    module_bytes: Count = 0  # size of the module's tensors
    reason: Reason = ""  # why there is no number, if the status is not 'ok'
    key: Key  # of the cell; equal for all rows of one fit
    data: Key  # hash of the backbone's weights and of the test set

    @model_validator(mode="after")
    def _agrees(self) -> Row:
        self.check(self)
        return self

    @staticmethod
    def check(row: Any) -> None:
        """Raise ValueError if the numbers of a row, or of a line of a file, contradict."""
        if row.status != "ok":
            for name in (*MEASURES, "prompt_diversity"):
                if getattr(row, name) is not None:
                    raise ValueError("a row that is not ok has no counts")
            return
        if None in (row.correct, row.total, row.zero_shot_correct):
            raise ValueError("a row that is ok has correct, total and zero_shot_correct")
        if not max(row.correct, row.zero_shot_correct) <= row.total or row.total == 0:
            raise ValueError("more images are right than there are")
        flips = (row.negative_flips, row.positive_flips, row.inconsistent_errors)
        if flips == (None, None, None):
            return
        if None in flips:
            raise ValueError("flips are all given, or none is")
        negative, positive, other = flips
        # The images that the target gets right include the positive flips. Those that it gets wrong
        # include the negative flips and the inconsistent errors.
        if positive > row.correct or negative + other > row.total - row.correct:
            raise ValueError("more predictions have flipped than there are")
        if row.backbone == row.source:
            raise ValueError("a row of the source has no flips")


class Cost(BaseModel):
    """The time and memory that a record took; one line of ``costs.csv``.

    Times are in seconds of wall clock. Peak memory, in bytes, is that of the cell's process, or of
    the tensors on a GPU. It is empty if it was not measured.
    """

    model_config = STRICT

    place: ClassVar[list[str]] = ["method", "key", "backbone", "test_set"]
    figures: ClassVar[list[str]] = ["fit_seconds", "evaluate_seconds", "peak_memory"]
    columns: ClassVar[tuple[str, ...]] = (*place, *figures)

    method: ConfigName
    key: Key
    backbone: BackboneName
    test_set: Name
    fit_seconds: Seconds | None = None  # None if the record of the fit was lost
    evaluate_seconds: Seconds
    peak_memory: Count | None = None


Line = type[Row] | type[Cost]


def to_frame(lines: Iterable[Row | Cost], model: Line) -> pd.DataFrame:
    """Return lines as a frame with the columns of their model."""
    lines = list(lines)
    columns = {}
    for name in model.columns:
        columns[name] = [getattr(line, name) for line in lines]
    return _make_frame(columns)


# Looked up once: finding a dtype by its name takes as long as making a column.
_DTYPES: dict[str, Any] = {
    name: pd.api.types.pandas_dtype(name) for name in ("Int64", "float64", "str")
}


def _make_frame(columns: dict[str, list[Any]]) -> pd.DataFrame:
    """Return columns as a frame, each with the dtype of its name."""
    arrays = {}
    for name, values in columns.items():
        kind = "str"
        if name in _INTEGERS:
            kind = "Int64"
        elif name in _REALS:
            kind = "float64"
        arrays[name] = pd.array(values, dtype=_DTYPES[kind])
    return pd.DataFrame(arrays, copy=False)


def places_of(lines: pd.DataFrame, model: Line) -> list[tuple[Any, ...]]:
    """Return the values that identify each line in its file."""
    columns = [lines[name].tolist() for name in model.place]
    return list(zip(*columns, strict=True))


def in_order(lines: pd.DataFrame, model: Line) -> pd.DataFrame:
    """Return the lines in the order of their file."""
    # Sorting tuples is ten times as fast as sorting a frame by this many columns.
    places = places_of(lines, model)
    order = sorted(range(len(places)), key=places.__getitem__)
    return lines.take(order)


def with_figures(rows: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with their costs and every measure of a row; NaN where there is none."""
    figures = _compute_measures(rows) | _find_costs(rows, costs)
    added = pd.DataFrame(figures, index=rows.index, copy=False)
    return pd.concat([rows, added], axis="columns")


def _compute_measures(rows: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Return every measure that follows from the numbers of a row, each ``[rows]``."""
    columns = {}
    for name in MEASURES:
        columns[name] = _to_floats(rows[name])
    derived = {}
    for name, measure in list_measures("row").items():
        derived[name] = measure.compute(columns)
        columns[name] = derived[name]  # later measures may use it
    return derived


def _find_costs(rows: pd.DataFrame, costs: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Return the costs of rows, each ``[rows]``; NaN for rows without a line of costs."""
    # Without ``merge``, which takes several times as long.
    line_of = {place: line for line, place in enumerate(places_of(costs, Cost))}
    lines = [line_of.get(place, -1) for place in places_of(rows, Cost)]
    found = {}
    for name in Cost.figures:
        values = np.append(_to_floats(costs[name]), np.nan)  # line -1 is the NaN at the end
        found[name] = values[lines]
    return found


def _to_floats(column: pd.Series) -> NDArray[np.float64]:
    return column.to_numpy("float64", na_value=np.nan)


def write_csv(frame: pd.DataFrame) -> str:
    """Return rows or costs as CSV text. The same lines give the same bytes."""
    columns: dict[str, list[Any]] = {}
    for name in map(str, frame):
        if name in _OPTIONAL and frame[name].isna().all():
            continue
        columns[name] = frame[name].to_numpy(object, na_value="").tolist()
    if "shots" in columns:
        columns["shots"] = [show_shots(number) for number in columns["shots"]]
    text = io.StringIO()
    # For a small table, ``DataFrame.to_csv`` takes twice as long.
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def parse_csv(content: bytes, path: Path, model: Line) -> pd.DataFrame:
    """Return the lines of a results file (``Row``) or of the costs (``Cost``) as a frame.

    In each column, every distinct value is checked once. That takes a fraction of the time of
    checking lines.

    Args:
        path: the name of the file, for errors.

    Raises:
        CompatbenchError: the first line that is wrong.
    """
    header, lines = _split_csv(content, path)
    absent = _OPTIONAL.difference(header)
    if header != [name for name in model.columns if name not in absent]:
        raise CompatbenchError(f"{path}:1: the columns must be {','.join(model.columns)}")
    problems: list[tuple[int, str, str]] = []
    for i, (_, line) in enumerate(lines):
        if len(line) > len(header):
            problems.append((i, "row", "has more values than there are columns"))
    # A line that is too short has empty cells at its end.
    by_column = zip_longest(*(line for _, line in lines), fillvalue="")
    texts = dict(zip(header, by_column, strict=False))
    columns: dict[str, list[Any]] = {}
    for name, (default, kind) in _describe_columns(model).items():
        column = texts.get(name, ("",) * len(lines))
        distinct = list(dict.fromkeys(column))
        try:
            checked = kind.validate_python([text or default for text in distinct])
        except ValidationError as error:
            where, message = first_problem(error)
            wrong = distinct[int(where.partition(".")[0])]
            problems.append((column.index(wrong), name, message))
            continue
        values = dict(zip(distinct, checked, strict=True))
        columns[name] = [values[text] for text in column]
        if name == "reason":
            changed = [text for text in distinct if values[text] != text]
            if changed:
                message = "a spreadsheet's formula, or more than plain text"
                problems.append((column.index(changed[0]), name, message))
    if not problems and issubclass(model, Row):
        problems += _find_contradiction(columns)
    if problems:
        i, name, message = min(problems)
        raise CompatbenchError(f"{path}:{lines[i][0]}: '{name}': {message}")
    return _make_frame(columns)


def _split_csv(content: bytes, path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header of a CSV file, and its other lines with their numbers."""
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8"), newline=""))
        header = next(reader, [])
        lines = [(reader.line_num, line) for line in reader if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CompatbenchError(f"cannot read {path}: {first_line(error)}") from None
    return header, lines


def _find_contradiction(columns: Mapping[str, list[Any]]) -> list[tuple[int, str, str]]:
    """Return the first line whose numbers contradict each other, if there is one."""
    line = namedtuple("line", columns)  # type: ignore[misc]
    for i, values in enumerate(map(line._make, zip(*columns.values(), strict=True))):
        try:
            Row.check(values)
        except ValueError as error:
            return [(i, "row", str(error))]
    return []


@cache
def _describe_columns(model: Line) -> dict[str, tuple[Any, TypeAdapter[list[Any]]]]:
    """Return for each column the value of an empty cell, and the type that checks values."""
    hints = get_type_hints(model, include_extras=True)
    described = {}
    for name in model.columns:
        field = model.model_fields[name]
        default = "" if field.is_required() else field.default
        described[name] = (default, TypeAdapter(list[hints[name]]))  # type: ignore[misc]
    return described
