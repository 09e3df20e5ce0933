"""The folder ``results/<suite>/``: three files per method, read and written exactly.

``<method>.csv`` holds the rows of every transfer, ``<method>.cost.csv`` what they took, and
``<method>.json`` what the method is and how it was set. The rows are written last,
and a method without them does not exist: an interrupted write is never half read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from compatbench.data.cards.suite import COPIED, ConfigName
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.results.frame import (
    FIGURES,
    Table,
    compute_figure,
    read_frames,
    to_frame,
    with_figures,
)
from compatbench.results.rows import AnyRow, Cost, Order, Row, write_csv

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")


@dataclass(frozen=True)
class MethodInfo:
    """A method's card, as far as the leaderboard needs it.

    Attributes:
        name: the name of its files.
        title: the name as its authors write it.
        paper: such as ``arXiv:2109.01134``.
        depth: ``none`` for a method that inserts nothing.
        inserts: the places where the module acts.
        learns: False for a method that looks at no image; it has one seed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: ConfigName
    title: str
    paper: str
    depth: Literal["none", "shallow", "deep"]
    inserts: tuple[str, ...]
    learns: bool = True


@dataclass(frozen=True)
class MethodResults:
    """All that is known of one method in one suite, by one transfer or by all.

    Attributes:
        config: the resolved settings, as JSON values.
        differs: settings that the suite changed: name -> (published recipe, suite).
        provenance: name -> every version, or processor, that some row was made with.
        transfer: of the rows; None if they are of every transfer, as in the method's file.
    """

    info: MethodInfo
    config: Mapping[str, Any]
    differs: Mapping[str, tuple[Any, Any]]
    provenance: Mapping[str, tuple[str, ...]]
    rows: Sequence[Row]
    costs: Sequence[Cost] = ()
    transfer: str | None = COPIED

    @property
    def title(self) -> str:
        """The method's title; with the transfer, where the module is not attached as it is."""
        # Modules that are attached through words have been called aligned from the start.
        return (
            self.info.title if self.transfer in (COPIED, None) else f"{self.info.title} + aligned"
        )

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The rows as a frame, with the columns of ``Row``."""
        return self.rows.frame if isinstance(self.rows, Table) else to_frame(self.rows, Row)

    @cached_property
    def cost_frame(self) -> pd.DataFrame:
        """The costs as a frame, with the columns of ``Cost``."""
        return self.costs.frame if isinstance(self.costs, Table) else to_frame(self.costs, Cost)

    @cached_property
    def positions(self) -> dict[Order, int]:
        """Place of a measurement -> number of its row in the frame."""
        places = zip(*(self.frame[name].tolist() for name in Row.order_columns), strict=True)
        return {place: number for number, place in enumerate(places)}

    @cached_property
    def fit_times(self) -> dict[str, float]:
        """Key of a cell -> wall clock of its fit."""
        columns = (self.cost_frame[name].tolist() for name in ("key", "fit_seconds"))
        return dict(zip(*columns, strict=True))

    def column(self, name: str) -> NDArray[Any]:
        """A column of numbers, computed ones included, as floats, or one of text.

        Returns:
            ``[rows + 1]``: the last entry is NaN, or an empty text, so that position −1 has none.
        """
        if name in self._columns:
            return self._columns[name]
        if name in FIGURES:
            values = compute_figure(name, self.column)
        else:
            values = self.frame[name]
            if pd.api.types.is_numeric_dtype(values.dtype):
                values = np.append(values.to_numpy("float64", na_value=np.nan), np.nan)
            else:
                values = np.array([*values.tolist(), ""], dtype=object)
        self._columns[name] = values
        return values

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        return {}


@dataclass(frozen=True)
class SuiteResults:
    """The results of a suite.

    Attributes:
        methods: method -> its rows with modules that are attached as they are, by name.
        transferred: transfer -> method -> its rows with modules that are brought along so.
    """

    name: str
    methods: Mapping[str, MethodResults]
    transferred: Mapping[str, Mapping[str, MethodResults]] = field(default_factory=dict)

    def of(self, transfer: str) -> Mapping[str, MethodResults]:
        """Method -> its rows by one transfer."""
        return self.methods if transfer == COPIED else self.transferred.get(transfer, {})

    @property
    def all(self) -> list[MethodResults]:
        """The results of every method by every transfer, those copied first."""
        every = (self.methods, *(self.transferred[name] for name in sorted(self.transferred)))
        return [one for methods in every for one in methods.values()]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Every row, with accuracies and gains in percent beside the counts."""
        frames = [one.frame for one in self.all] or [to_frame([], Row)]
        return with_figures(pd.concat(frames, ignore_index=True))

    @cached_property
    def costs(self) -> pd.DataFrame:
        """What every row took, with its method and transfer."""
        frames = [
            one.cost_frame.assign(method=one.info.name, transfer=one.transfer) for one in self.all
        ]
        return pd.concat(frames, ignore_index=True) if frames else to_frame([], Cost)


class _About(BaseModel):
    """The layout of ``<method>.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    method: MethodInfo
    config: dict[str, Any]
    differs: dict[str, tuple[Any, Any]]
    provenance: dict[str, tuple[str, ...]]


def check_name(name: str, what: str) -> str:
    """The name, if it can be one component of a path.

    Raises:
        CompatbenchError: it holds a separator, starts with a dot, or is too long.
    """
    if not _NAME.fullmatch(name):
        raise CompatbenchError(
            f"{what} {name!r} must consist of letters, digits, '_', '.', '+' and '-'"
        )
    return name


def read_results(folder: Path) -> SuiteResults:
    """Reads ``results/<suite>/``; a folder that does not exist holds no results.

    Raises:
        CompatbenchError: a file that is broken, missing, a link, or named unsafely, or
            two rows for one measurement.
    """
    methods: dict[str, MethodResults] = {}
    transferred: dict[str, dict[str, MethodResults]] = {}
    for name, whole in read_methods(folder).items():
        for transfer, part in split_transfers(whole).items():
            group = methods if transfer == COPIED else transferred.setdefault(transfer, {})
            group[name] = part
    return SuiteResults(folder.name, methods, transferred)


def read_methods(folder: Path) -> dict[str, MethodResults]:
    """The methods of ``results/<suite>/``, each with all its transfers, as its files hold them.

    Raises:
        CompatbenchError: as ``read_results``.
    """
    check_name(folder.name, "suite")
    try:
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise CompatbenchError(f"cannot read {folder}: {error.strerror}") from None
    # Dot files are the remains of an interrupted write, or the system's.
    methods = [
        _check_method(name.removesuffix(".csv"))
        for name in names
        if name.endswith(".csv") and not name.endswith(".cost.csv") and not name.startswith(".")
    ]
    return _read_files(folder, methods)


def read_method(folder: Path, method: str) -> MethodResults:
    """One method of ``results/<suite>/`` with all its transfers.

    Raises:
        CompatbenchError: as ``read_results``.
    """
    return _read_files(folder, [method])[method]


def _read_files(folder: Path, methods: Sequence[str]) -> dict[str, MethodResults]:
    about = {}
    for method in methods:
        for file in _files(folder, method):
            if file.is_symlink():
                raise CompatbenchError(
                    f"{file} is a link; results are read from their own folder only"
                )
        about[method] = _read_about(folder / f"{method}.json")
        if about[method].method.name != method:
            raise CompatbenchError(f"{folder / method}.json: the method's name must be '{method}'")
    paths = {method: _files(folder, method) for method in methods}
    costed = [method for method in methods if paths[method][1].exists()]
    rows, row_slices = read_frames([paths[method][0] for method in methods], Row)
    costs, cost_slices = read_frames([paths[method][1] for method in costed], Cost)
    cost_tables = {
        method: Table(costs.iloc[part], Cost)
        for method, part in zip(costed, cost_slices, strict=True)
    }
    found = {
        method: MethodResults(
            about[method].method,
            about[method].config,
            about[method].differs,
            about[method].provenance,
            Table(rows.iloc[part], Row),
            cost_tables.get(method, ()),
            transfer=None,
        )
        for method, part in zip(methods, row_slices, strict=True)
    }
    # Over all files at once; only where something is wrong is the file looked for.
    owners = np.repeat(methods, [part.stop - part.start for part in row_slices])
    places = rows[["method", *Row.order_columns]]
    if (
        places.duplicated().any()
        or (rows["method"] != owners).any()
        or costs[list(Cost.order_columns)].duplicated().any()
    ):
        for method, results in found.items():
            _check_rows(results, paths[method][0])
    return found


def _files(folder: Path, method: str) -> tuple[Path, Path, Path]:
    rows, costs, about = (folder / f"{method}{end}" for end in (".csv", ".cost.csv", ".json"))
    return rows, costs, about


def split_transfers(whole: MethodResults) -> dict[str, MethodResults]:
    """A method's results by transfer; without any row, of copied modules."""
    frame, costs = whole.frame, whole.cost_frame
    transfers = sorted(set(frame["transfer"])) or [COPIED]
    if len(transfers) == 1:
        return {transfers[0]: replace(whole, transfer=transfers[0])}
    parts = {}
    for transfer in transfers:
        rows = frame.loc[frame["transfer"] == transfer, :]
        own = costs.loc[costs["key"].isin(rows["key"]), :]
        tables = {"rows": Table(rows, Row), "costs": Table(own, Cost)}
        parts[transfer] = replace(whole, **tables, transfer=transfer)
    return parts


def write_results(folder: Path, results: MethodResults) -> list[Path]:
    """Writes a method's three files, all its transfers: the same results give the same bytes.

    Returns:
        The files that changed; the others are left untouched.

    Raises:
        CompatbenchError: an unsafe name, a row of another method, two rows for one
            measurement, or a folder that cannot be written.
    """
    check_name(folder.name, "suite")
    method = _check_method(results.info.name)
    _check_rows(results, folder / f"{method}.csv")
    contents = {
        f"{method}.json": about_text(results),
        f"{method}.cost.csv": write_csv(sorted(results.costs, key=lambda cost: cost.order), Cost),
        f"{method}.csv": write_csv(sorted(results.rows, key=lambda row: row.order), Row),
    }
    return [
        folder / name
        for name, content in contents.items()
        if _write_if_new(folder / name, content.encode())
    ]


def merge_results(
    old: MethodResults | None, new: MethodResults, valid_keys: set[str]
) -> MethodResults:
    """Two machines' work on one method: rows, costs and, if an old row stays, provenance.

    An old row stays if its key is valid and no new row takes its place. A new failure does not
    take the place of an old result under the same key: the fit is the same, so the result still
    holds. Of two lines of ``new`` for one measurement the later counts. Info, config and differs
    are those of ``new``.
    """
    rows = _merge(old.rows if old else (), new.rows, valid_keys, _has_result)
    keys = {row.key for row in rows} & valid_keys
    costs = _merge(old.costs if old else (), new.costs, keys, lambda _: True)
    parts = [new.provenance]
    if old and set(rows) - set(new.rows):
        parts.append(old.provenance)
    transfers = {row.transfer for row in rows} or {new.transfer}
    return replace(
        new,
        rows=tuple(rows),
        costs=tuple(costs),
        provenance=join_provenance(parts),
        transfer=transfers.pop() if len(transfers) == 1 else None,
    )


def join_provenance(
    parts: Iterable[Mapping[str, str | Iterable[str]]],
) -> dict[str, tuple[str, ...]]:
    """Every name with all its values, sorted; a value may be one string or several."""
    joined: dict[str, set[str]] = {}
    for part in parts:
        for name, values in part.items():
            joined.setdefault(name, set()).update([values] if isinstance(values, str) else values)
    return {name: tuple(sorted(joined[name])) for name in sorted(joined)}


def _has_result(row: Row) -> bool:
    return row.status != "failed"


def _merge(
    old: Iterable[AnyRow],
    new: Iterable[AnyRow],
    valid_keys: set[str],
    has_result: Callable[[AnyRow], bool],
) -> list[AnyRow]:
    merged = {line.order: line for line in old if line.key in valid_keys}
    for line in new:
        before = merged.get(line.order)
        if before and before.key == line.key and has_result(before) and not has_result(line):
            continue
        merged[line.order] = line
    return sorted(merged.values(), key=lambda line: line.order)


def _check_method(name: str) -> str:
    if name.endswith(".cost"):
        raise CompatbenchError(f"method {name!r} may not end in '.cost'; its files would clash")
    return check_name(name, "method")


def _read_about(path: Path) -> _About:
    try:
        return _About.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CompatbenchError(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise CompatbenchError(f"{path}: '{field}': {first['msg']}") from None


def about_text(results: MethodResults) -> str:
    """``<method>.json``: the same results give the same text."""
    about = {
        "schema_version": 1,
        "method": asdict(results.info),
        "config": dict(results.config),
        "differs": dict(results.differs),
        "provenance": join_provenance([results.provenance]),
    }
    return json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _check_rows(results: MethodResults, path: Path) -> None:
    strangers = set(results.frame["method"]) - {results.info.name}
    if strangers:
        raise CompatbenchError(f"{path}: a row of method '{min(strangers)}'")
    for frame, model in ((results.frame, Row), (results.cost_frame, Cost)):
        places = frame[list(model.order_columns)]
        twice = places.duplicated()
        if twice.any():
            place = ", ".join(map(str, places.to_numpy()[twice.argmax()]))
            raise CompatbenchError(f"{path}: two lines for {place}")


def _write_if_new(path: Path, content: bytes) -> bool:
    if path.is_file() and not path.is_symlink() and path.read_bytes() == content:
        return False
    write_atomic(path, content)
    return True
