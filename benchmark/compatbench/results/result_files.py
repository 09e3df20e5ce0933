"""The folder ``results/<suite>/``: two files per method and one of costs, read and written exactly.

``<method>.csv`` holds the rows of every transfer, and ``<method>.json`` what the method is and how
it was set. ``costs.csv`` holds what the rows of all methods took. The rows of a method are written
last, and a method without them does not exist: an interrupted write is never half read.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from compatbench.engine.cell import MadeBy, MadeWith
from compatbench.engine.request import CLASSES
from compatbench.engine.stored_costs import COSTS
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import holds, write_atomic
from compatbench.files.hashes import sha256_bytes
from compatbench.files.kinds import kind_of, require
from compatbench.messages import first_problem
from compatbench.results.reports import (
    REPORTED,
    Origin,
    RowReports,
    find_origins,
    parse_reports,
)
from compatbench.results.rows import Cost, Row, in_order, parse_csv, places_of, to_frame, write_csv
from compatbench.results.stored_method import MethodInfo, StoredMethod
from compatbench.results.suite_results import SuiteResults, gather_results

RESULTS = "results"
TUNING = "tuning"  # below the folder of a suite
PAGE = "README.md"  # there, too: made from its results
# Below results/, beside a folder for each suite.
FIGURES, PUBLISHED, REPORT = "figures", "published", "report"
NO_SUITES = (FIGURES, PUBLISHED, REPORT, CLASSES.name)
# What people write there; all else below results/ is made.
WRITTEN = ("README.md", "few_shot.csv", "zero_shot.csv")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")


class _About(BaseModel):
    """The layout of ``<method>.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    method: MethodInfo
    config: dict[str, Any]
    differs: dict[str, tuple[Any, Any]]
    provenance: dict[MadeBy, tuple[MadeWith, ...]]


def check_name(name: str, what: str) -> str:
    """Return the name if it can be one component of a path."""
    if _NAME.fullmatch(name):
        return name
    raise CompatbenchError(
        f"{what} {name!r} must consist of letters, digits, '_', '.', '+' and '-'"
    )


def result_folders(out: Path) -> list[Path]:
    """Return the folders below ``results/`` that should each hold a suite's results, by name."""
    results = require(out / RESULTS, "folder")
    folders = [path for path in results.glob("*") if kind_of(path) != "file"]
    return sorted(path for path in folders if path.name not in NO_SUITES)


class ResultFiles:
    """The result files below one folder, of which a command opens each once.

    What a file holds is kept. A file that has changed since then, because another process writes
    to the same folder, is read again.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._files: dict[Path, _File] = {}
        self._suites: dict[str, tuple[list[_File], SuiteResults]] = {}

    def folder(self, suite: str) -> Path:
        """Return ``results/<suite>``, if neither it nor ``results/`` is a link to elsewhere."""
        check_name(suite, "suite")
        require(self.out / RESULTS, "folder")
        return require(self.out / RESULTS / suite, "folder")

    def read_suite(self, suite: str) -> SuiteResults:
        """Return a suite's results. If there is no folder of the suite, they are empty."""
        methods = self.read_methods(suite)
        folder = self.folder(suite)
        tables = sorted(folder / f"{name}.csv" for name in [*methods, Path(COSTS).stem])
        read = [path for path in tables if path in self._files]
        about = [folder / f"{name}.json" for name in methods]
        files = [self._files[path] for path in (*read, *about)]
        known = self._suites.get(suite)
        if known is None or known[0] != files:
            contents = [self._files[path].content for path in read if methods]
            results = gather_results(suite, methods, sha256_bytes(*contents))
            self._suites[suite] = files, results
        return self._suites[suite][1]

    def read_methods(self, suite: str) -> dict[str, StoredMethod]:
        """Return what the files of each method of a suite hold."""
        costs = self.read_costs(suite)
        methods = {}
        for method in self.list_methods(suite):
            methods[method] = self.read_method(suite, method, costs)
        return methods

    def list_methods(self, suite: str) -> list[str]:
        """Return the methods that have rows in the folder of a suite."""
        folder = self.folder(suite)
        try:
            found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        except OSError as error:
            raise CompatbenchError(f"cannot read {folder}: {error.strerror}") from None
        methods = []
        for name in found:
            # Dot files are the remains of an interrupted write, or the system's.
            if name.startswith(".") or not name.endswith((".csv", ".json")):
                continue
            require(folder / name)
            if name.endswith(".csv") and name != COSTS:
                methods.append(_check_method(name.removesuffix(".csv")))
        return methods

    def read_costs(self, suite: str) -> pd.DataFrame:
        """Return what the rows of all methods of a suite took, as the file holds it."""
        path = require(self.folder(suite) / COSTS)
        if not path.exists():
            self._files.pop(path, None)
            return to_frame([], Cost)
        return self._read(path, _parse_costs)

    def read_reports(self, suite: str) -> RowReports | None:
        """Return who reported the rows of a suite; None if they are not reported."""
        path = require(self.folder(suite) / REPORTED)
        if not path.exists():
            self._files.pop(path, None)
            return None
        return self._read(path, parse_reports)

    def read_origins(self, suite: str) -> dict[str, Origin]:
        """Return who measured the rows of each method; empty if the rows are not reported."""
        reports = self.read_reports(suite)
        if reports is None:
            return {}
        return find_origins(reports, self.hash_rows(suite))

    def hash_rows(self, suite: str) -> dict[str, str]:
        """Return the SHA-256 of the file of rows of each method."""
        folder = self.folder(suite)
        hashes = {}
        for method in self.list_methods(suite):
            hashes[method] = sha256_bytes(self.read_bytes(folder / f"{method}.csv"))
        return hashes

    def read_method(self, suite: str, method: str, costs: pd.DataFrame) -> StoredMethod:
        """Return one method of a suite with all its transfers.

        Args:
            costs: those of the suite, of all methods.
        """
        folder = self.folder(suite)
        path = require(folder / f"{method}.csv")
        about_path = require(folder / f"{method}.json")
        about = self._read(about_path, _parse_about)
        if about.method.name != method:
            raise CompatbenchError(f"{about_path}: the method's name must be '{method}'")
        rows = self._read(path, _parse_rows)
        costs = costs.loc[costs["method"] == method].reset_index(drop=True)
        described = about.method, about.config, about.differs, about.provenance
        return _checked(StoredMethod(*described, rows, costs), path)

    def write(self, suite: str, methods: Sequence[StoredMethod]) -> list[Path]:
        """Write the files of methods, with all their transfers: the same results, the same bytes.

        The costs of other methods stay as long as these have rows.

        Returns:
            The files that were written. Those that would not change are left untouched.
        """
        folder = self.folder(suite)
        written = {_check_method(method.info.name) for method in methods}
        others = set(self.list_methods(suite)) - written
        before = self.read_costs(suite)
        kept = before.loc[before["method"].isin(others)]
        costs = pd.concat([kept, *(method.costs for method in methods)])
        costs = in_order(costs, Cost).reset_index(drop=True)
        texts = {folder / COSTS: costs_text(costs)}
        parsed: dict[Path, Any] = {folder / COSTS: costs}
        for method in methods:
            path = folder / f"{method.info.name}.csv"
            about = _describe(_checked(method, path))
            rows = in_order(method.rows, Row).reset_index(drop=True)
            texts[path.with_suffix(".json")] = _about_text(about)
            texts[path] = write_csv(rows)
            parsed[path.with_suffix(".json")] = about
            parsed[path] = rows
        changed = []
        for path, text in texts.items():
            content = text.encode()
            if self._holds(path, content):
                continue
            write_atomic(path, content)
            self._files[path] = _File(_mark(path), content, parsed[path])
            changed.append(path)
        return changed

    def _holds(self, path: Path, content: bytes) -> bool:
        """Return True if a file has exactly this content."""
        known = self._files.get(path)
        if known is None or kind_of(path) != "file" or known.mark != _mark(path):
            return holds(path, content)
        return known.content == content

    def read_bytes(self, path: Path) -> bytes:
        """Return the content of a file; one that was read before is opened only if it changed."""
        known = self._files.get(path)
        if known is None or known.mark != _mark(path):
            return path.read_bytes()
        return known.content

    def _read(self, path: Path, parse: Callable[[bytes, Path], Any]) -> Any:
        """Return what a file holds, opened only if it was not read yet or has changed."""
        known = self._files.get(path)
        try:
            mark = _mark(path)
            if known is None or known.mark != mark:
                content = path.read_bytes()
                known = _File(mark, content, parse(content, path))
                self._files[path] = known
        except OSError as error:
            raise CompatbenchError(f"cannot read {path}: {error.strerror}") from None
        return known.parsed


@dataclass(frozen=True, eq=False)
class _File:
    """A file that was read."""

    mark: tuple[int, int, int]
    content: bytes
    parsed: Any


def _mark(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file is written again."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _parse_costs(content: bytes, path: Path) -> pd.DataFrame:
    _check_whole(content, path)
    costs = parse_csv(content, path, Cost)
    _refuse_doubles(places_of(costs, Cost), path)
    return costs


def _parse_rows(content: bytes, path: Path) -> pd.DataFrame:
    _check_whole(content, path)
    return parse_csv(content, path, Row)


def _check_whole(content: bytes, path: Path) -> None:
    """Raise CompatbenchError for a file that was cut off within a line."""
    if not content.endswith(b"\n"):
        raise CompatbenchError(
            f"{path} is cut off: its last line has no end; delete it, and 'compatbench run --suite "
            f"{path.parent.name}' writes it again, without running finished cells again"
        )


def _parse_about(content: bytes, path: Path) -> _About:
    try:
        return _About.model_validate_json(content)
    except ValidationError as error:
        where, message = first_problem(error)
        raise CompatbenchError(f"{path}: '{where or 'file'}': {message}") from None


def costs_text(costs: pd.DataFrame) -> str:
    """Return the content of a suite's file of costs."""
    return write_csv(in_order(costs, Cost))


def file_texts(method: StoredMethod) -> tuple[str, str]:
    """Return the content of a method's ``.json`` and ``.csv``."""
    return _about_text(_describe(method)), write_csv(in_order(method.rows, Row))


def _describe(method: StoredMethod) -> _About:
    return _About(
        method=method.info,
        config=dict(method.config),
        differs=dict(method.differs),
        provenance=dict(method.provenance),
    )


def _about_text(about: _About) -> str:
    values = about.model_dump()
    for name in ("needs", "refused"):
        if not values["method"][name]:
            del values["method"][name]
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _check_method(name: str) -> str:
    if f"{name}.csv" == COSTS:
        raise CompatbenchError(f"a method cannot be named {name!r}: {COSTS} holds times")
    if f"{name}.json" == REPORTED:
        raise CompatbenchError(f"a method cannot be named {name!r}: {REPORTED} names people")
    return check_name(name, "method")


def _checked(method: StoredMethod, path: Path) -> StoredMethod:
    """Return the method if all rows are its own, and no two lines are for one measurement."""
    strangers = {*method.rows["method"].tolist(), *method.costs["method"].tolist()}
    strangers -= {method.info.name}
    if strangers:
        raise CompatbenchError(f"{path}: a row of method '{min(strangers)}'")
    _refuse_doubles(places_of(method.rows, Row), path)
    _refuse_doubles(places_of(method.costs, Cost), path.with_name(COSTS))
    return method


def _refuse_doubles(places: list[tuple[Any, ...]], path: Path) -> None:
    twice = [place for place, count in Counter(places).items() if count > 1]
    if twice:
        raise CompatbenchError(f"{path}: two lines for {', '.join(map(str, twice[0]))}")
