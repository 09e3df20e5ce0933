"""The folder ``results/<suite>/``: three files per method, read and written exactly.

``<method>.csv`` holds the rows of every transfer, ``<method>.cost.csv`` what they took, and
``<method>.json`` what the method is and how it was set. The rows are written last,
and a method without them does not exist: an interrupted write is never half read.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

import compatbench
from compatbench.data.cards import COPIED, ConfigName
from compatbench.data.needs import Need
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import holds, write_atomic
from compatbench.files.kinds import kind_of, require
from compatbench.messages import first_problem
from compatbench.results.rows import (
    Cost,
    Row,
    places_of,
    read_csv,
    to_frame,
    with_figures,
    write_csv,
)

RESULTS = "results"
TUNING = "tuning"  # below the folder of a suite
PAGES = ("README.md", "methods.md")  # there, too: made from its results
# Below results/, beside a folder for each suite.
FIGURES, PUBLISHED, REPORT, RETRIEVAL = "figures", "published", "report", "retrieval"
NO_SUITES = (FIGURES, PUBLISHED, REPORT, RETRIEVAL)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")


@dataclass(frozen=True)
class MethodInfo:
    """A method's card, as far as the leaderboard needs it; see ``MethodCard``."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: ConfigName
    title: str
    paper: str
    depth: Literal["none", "shallow", "deep"]
    inserts: tuple[str, ...]
    learns: bool = True
    needs: tuple[Need, ...] = ()
    refused: str = ""  # what of 'compatbench check' refused it, and why; it is not ranked

    @property
    def sees_tests(self) -> bool:
        """Whether it sees all images of a test set before it answers; it is ranked apart."""
        return "stream" in self.needs


@dataclass(frozen=True, eq=False)
class MethodResults:
    """All that is known of one method in one suite, by one transfer or by all."""

    info: MethodInfo
    config: Mapping[str, Any]  # the resolved settings, as JSON values
    differs: Mapping[str, tuple[Any, Any]]  # what the suite changed: (published recipe, suite)
    provenance: Mapping[str, tuple[str, ...]]  # versions, or processors, that rows were made with
    rows: pd.DataFrame  # the lines of the files (``Row``, ``Cost``)
    costs: pd.DataFrame = field(default_factory=lambda: to_frame([], Cost))
    transfer: str | None = COPIED  # of the rows; None if they are of every transfer, as in a file
    _columns: dict[str, NDArray[Any]] = field(default_factory=dict, init=False, repr=False)

    @property
    def ranked_with(self) -> str | None:
        """The transfer that it is ranked with: ``words`` if the method itself reads words."""
        return "words" if self.transfer == COPIED and "words" in self.info.needs else self.transfer

    @property
    def title(self) -> str:
        """The method's title; with the transfer, where the module is not attached as it is."""
        plain = self.transfer in (COPIED, None)
        return self.info.title if plain else f"{self.info.title} ({self.transfer})"

    @cached_property
    def table(self) -> pd.DataFrame:
        """The rows with their figures (see ``with_figures``) and what they took."""
        return with_figures(self.rows, self.costs)

    def column(self, name: str) -> NDArray[Any]:
        """A column of the table, of floats or of text, ``[rows + 1]``.

        The last entry is NaN, or an empty text, so that position −1 has none.
        """
        if name not in self._columns:
            values = self.table[name]
            # Text is of another type in pandas 2 than in pandas 3.
            numeric = pd.api.types.is_numeric_dtype(values.dtype)
            dtype, nothing = (float, np.nan) if numeric else (object, "")
            self._columns[name] = np.append(values.to_numpy(dtype, na_value=nothing), nothing)
        return self._columns[name]

    @cached_property
    def _positions(self) -> dict[tuple[object, ...], int]:
        names = ["task", "source", "backbone", "test_set", "shots", "seed"]
        columns = [self.rows[name].tolist() for name in names[: 6 if self.info.learns else 4]]
        places = list(zip(*columns, strict=True))
        failed = (self.rows["status"] == "failed").to_numpy()
        # Of several draws the first counts, one that has not failed before others.
        order = [*np.flatnonzero(failed)[::-1], *np.flatnonzero(~failed)[::-1]]
        return {places[number]: number for number in order}

    def find_row(
        self, task: str, source: str, backbone: str, test_set: str, shots: int, seed: int
    ) -> int:
        """The position of a row, or −1; of what learns nothing, any shots and seed will do."""
        draw = (shots, seed) if self.info.learns else ()
        return self._positions.get((task, source, backbone, test_set, *draw), -1)


@dataclass(frozen=True)
class SuiteResults:
    """The results of a suite."""

    name: str
    all: tuple[MethodResults, ...]  # every method by every transfer, those copied first

    @property
    def transfers(self) -> list[str]:
        """``copied``, and then every other transfer that was measured."""
        return sorted({COPIED, *(str(one.ranked_with) for one in self.all)}, key=_copied_first)

    def of(self, transfer: str) -> dict[str, MethodResults]:
        """Method -> its rows that are ranked with those of one transfer."""
        return {one.info.name: one for one in self.all if one.ranked_with == transfer}

    @cached_property
    def methods(self) -> dict[str, MethodResults]:
        """Method -> its rows with modules that are attached as they are, by name."""
        return {one.info.name: one for one in self.all if one.transfer == COPIED}

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Every row, with accuracies and gains in percent, and with times and memory."""
        empty = with_figures(to_frame([], Row), to_frame([], Cost))
        return pd.concat([empty, *(one.table for one in self.all)], ignore_index=True)


class _About(BaseModel):
    """The layout of ``<method>.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    method: MethodInfo
    config: dict[str, Any]
    differs: dict[str, tuple[Any, Any]]
    provenance: dict[str, tuple[str, ...]]


def check_name(name: str, what: str) -> str:
    """The name, if it can be one component of a path."""
    if _NAME.fullmatch(name):
        return name
    raise CompatbenchError(
        f"{what} {name!r} must consist of letters, digits, '_', '.', '+' and '-'"
    )


def shipped_folder(name: str) -> Path:
    """A folder of ``results/`` as it is installed, or of the clone that is run."""
    package = Path(compatbench.__path__[0])
    installed = package / name
    return installed if installed.is_dir() else package.parents[1] / RESULTS / name


def result_folders(out: Path) -> list[Path]:
    """The folders below ``results/`` that should each hold the results of a suite, by name."""
    results = require(out / RESULTS, "folder")
    folders = (path for path in results.glob("*") if kind_of(path) != "file")
    return sorted(path for path in folders if path.name not in NO_SUITES)


def read_results(folder: Path) -> SuiteResults:
    """Reads ``results/<suite>/``; a folder that does not exist holds no results."""
    return split_results(folder.name, read_methods(folder).values())


def split_results(name: str, methods: Iterable[MethodResults]) -> SuiteResults:
    """A suite's results by transfer, of methods with all their transfers.

    A method without any row is one of copied modules.
    """
    parts = []
    for whole in methods:
        for transfer in {*whole.rows["transfer"]} or [COPIED]:
            rows = whole.rows[whole.rows["transfer"] == transfer]
            costs = whole.costs[whole.costs["key"].isin(rows["key"])]
            parts.append(replace(whole, rows=rows, costs=costs, transfer=transfer))
    return SuiteResults(name, tuple(sorted(parts, key=lambda one: _copied_first(one.transfer))))


def _copied_first(transfer: str | None) -> tuple[bool, str]:
    return transfer != COPIED, transfer or ""


def read_methods(folder: Path) -> dict[str, MethodResults]:
    """The methods of ``results/<suite>/``, each with all its transfers, as its files hold them."""
    check_name(folder.name, "suite")
    folder = _own(folder)
    try:
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise CompatbenchError(f"cannot read {folder}: {error.strerror}") from None
    # Dot files are the remains of an interrupted write, or the system's.
    names = [name for name in names if name.endswith((".csv", ".json")) and name[0] != "."]
    for name in names:
        require(folder / name)
    tables = [name for name in names if name.endswith(".csv")]
    methods = [name.removesuffix(".csv") for name in tables if not name.endswith(".cost.csv")]
    return {method: read_method(folder, _check_method(method)) for method in methods}


def _own(folder: Path) -> Path:
    """A suite's folder, if neither it nor ``results/`` is a link out of where results are."""
    require(folder.parent, "folder")
    return require(folder, "folder")


def read_method(folder: Path, method: str) -> MethodResults:
    """One method of ``results/<suite>/`` with all its transfers."""
    ends = (".csv", ".cost.csv", ".json")
    path, cost_path, about_path = (require(_own(folder) / f"{method}{end}") for end in ends)
    try:
        about = _About.model_validate_json(about_path.read_bytes())
    except OSError as error:
        raise CompatbenchError(f"cannot read {about_path}: {error.strerror}") from None
    except ValidationError as error:
        where, message = first_problem(error)
        raise CompatbenchError(f"{about_path}: '{where or 'file'}': {message}") from None
    if about.method.name != method:
        raise CompatbenchError(f"{about_path}: the method's name must be '{method}'")
    rows = read_csv(path, Row)
    costs = read_csv(cost_path, Cost) if cost_path.exists() else to_frame([], Cost)
    described = about.method, about.config, about.differs, about.provenance
    return _checked(MethodResults(*described, rows, costs, transfer=None), path)


def write_results(folder: Path, results: MethodResults) -> list[Path]:
    """Writes a method's three files, all its transfers: the same results give the same bytes.

    Files that would not change are left untouched; the others are returned.
    """
    check_name(folder.name, "suite")
    method = _check_method(results.info.name)
    changed = []
    for end, text in file_texts(_checked(results, folder / f"{method}.csv")).items():
        path = folder / f"{method}{end}"
        if not holds(path, text.encode()):
            write_atomic(path, text.encode())
            changed.append(path)
    return changed


def file_texts(results: MethodResults) -> dict[str, str]:
    """The content of a method's files by the ends of their names, the rows last."""
    about = {name: getattr(results, name) for name in ("config", "differs", "provenance")}
    info = asdict(results.info)
    for name in ("needs", "refused"):
        if not info[name]:
            del info[name]
    about |= {"schema_version": 1, "method": info}
    return {
        ".json": json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False) + "\n",
        ".cost.csv": write_csv(results.costs.sort_values(Cost.place)),
        ".csv": write_csv(results.rows.sort_values(Row.place)),
    }


def merge_results(
    old: MethodResults | None, new: MethodResults, valid_keys: set[str]
) -> MethodResults:
    """Two machines' work on one method: rows, costs and, if an old row stays, provenance.

    An old row stays if its key is valid and no new row takes its place. A new failure does not
    take the place of an old result under the same key: the fit is the same, so the result still
    holds. Of two lines of ``new`` for one measurement the later counts. Info, config and differs
    are those of ``new``.
    """
    old = old or replace(new, rows=new.rows[:0], costs=new.costs[:0])
    kept = old.rows.loc[old.rows["key"].isin(valid_keys)]
    rows = pd.concat([kept, new.rows], keys=["old", "new"], names=["origin", None])
    done = rows["status"] != "failed"
    has_result = done.groupby([rows[name] for name in (*Row.place, "key")]).transform("any")
    rows = rows.loc[done | ~has_result].drop_duplicates(Row.place, keep="last")
    rows = rows.sort_values(Row.place)
    keys = valid_keys.intersection(rows["key"])
    costs = pd.concat([old.costs.loc[old.costs["key"].isin(keys)], new.costs])
    costs = costs.drop_duplicates(Cost.place, keep="last").sort_values(Cost.place)
    made = [new, old] if "old" in rows.index.get_level_values("origin") else [new]
    return replace(
        new,
        rows=rows.reset_index(drop=True),
        costs=costs.reset_index(drop=True),
        provenance=join_provenance(one.provenance for one in made),
        transfer=None,
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


def _check_method(name: str) -> str:
    if name.endswith(".cost"):
        raise CompatbenchError(f"method {name!r} may not end in '.cost'; its files would clash")
    return check_name(name, "method")


def _checked(results: MethodResults, path: Path) -> MethodResults:
    """The results, if all rows are the method's, and no two lines are for one measurement."""
    strangers = {*results.rows["method"].tolist()} - {results.info.name}
    if strangers:
        raise CompatbenchError(f"{path}: a row of method '{min(strangers)}'")
    for places in (places_of(results.rows, Row), places_of(results.costs, Cost)):
        twice = [place for place, count in Counter(places).items() if count > 1]
        if twice:
            raise CompatbenchError(f"{path}: two lines for {', '.join(map(str, twice[0]))}")
    return results
