"""The folder ``results/<suite>/``: two files per method and one of costs, read and written exactly.

``<method>.csv`` holds the rows of every transfer, and ``<method>.json`` what the method is and how
it was set. ``costs.csv`` holds what the rows of all methods took. The rows of a method are written
last, and a method without them does not exist: an interrupted write is never half read.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from compatbench.engine.cell import MadeBy, MadeWith
from compatbench.engine.stored_costs import COSTS
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import holds, write_atomic
from compatbench.files.hashes import sha256_bytes
from compatbench.files.kinds import kind_of, require
from compatbench.messages import first_problem
from compatbench.results.method_results import (
    MethodInfo,
    MethodResults,
    SuiteResults,
    split_results,
)
from compatbench.results.rows import Cost, Row, in_order, places_of, read_csv, to_frame, write_csv

RESULTS = "results"
TUNING = "tuning"  # below the folder of a suite
PAGE = "README.md"  # there, too: made from its results
# Below results/, beside a folder for each suite.
FIGURES, PUBLISHED, REPORT = "figures", "published", "report"
NO_SUITES = (FIGURES, PUBLISHED, REPORT)
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
    """The name, if it can be one component of a path."""
    if _NAME.fullmatch(name):
        return name
    raise CompatbenchError(
        f"{what} {name!r} must consist of letters, digits, '_', '.', '+' and '-'"
    )


def result_folders(out: Path) -> list[Path]:
    """The folders below ``results/`` that should each hold the results of a suite, by name."""
    results = require(out / RESULTS, "folder")
    folders = (path for path in results.glob("*") if kind_of(path) != "file")
    return sorted(path for path in folders if path.name not in NO_SUITES)


def read_results(folder: Path, methods: Mapping[str, MethodResults] | None = None) -> SuiteResults:
    """Reads ``results/<suite>/``; a folder that does not exist holds no results.

    Args:
        methods: those of the folder, if they have been read.
    """
    methods = read_methods(folder) if methods is None else methods
    tables = (path.read_bytes() for path in sorted(folder.glob("[!.]*.csv")))
    return split_results(folder.name, methods.values(), sha256_bytes(*tables))


def read_methods(folder: Path) -> dict[str, MethodResults]:
    """Return the methods of ``results/<suite>/``, each with all its transfers."""
    methods = list_methods(folder)
    costs = read_costs(folder)
    return {method: read_method(folder, method, costs) for method in methods}


def list_methods(folder: Path) -> list[str]:
    """The methods that have rows in ``results/<suite>/``."""
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
    tables = [name for name in names if name.endswith(".csv") and name != COSTS]
    return [_check_method(name.removesuffix(".csv")) for name in tables]


def _own(folder: Path) -> Path:
    """A suite's folder, if neither it nor ``results/`` is a link out of where results are."""
    require(folder.parent, "folder")
    return require(folder, "folder")


def read_costs(folder: Path) -> pd.DataFrame:
    """Return what the rows of all methods of ``results/<suite>/`` took, as the file holds it."""
    path = require(_own(folder) / COSTS)
    if not path.exists():
        return to_frame([], Cost)
    costs = read_csv(path, Cost)
    _refuse_doubles(places_of(costs, Cost), path)
    return costs


def read_method(folder: Path, method: str, costs: pd.DataFrame) -> MethodResults:
    """Return one method of ``results/<suite>/`` with all its transfers.

    Args:
        costs: those of the folder, of all methods.
    """
    path = require(_own(folder) / f"{method}.csv")
    about_path = require(_own(folder) / f"{method}.json")
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
    costs = costs.loc[costs["method"] == method].reset_index(drop=True)
    described = about.method, about.config, about.differs, about.provenance
    return _checked(MethodResults(*described, rows, costs, transfer=None), path)


def write_results(folder: Path, *methods: MethodResults) -> list[Path]:
    """Write the files of methods, with all their transfers: the same results give the same bytes.

    The costs of other methods stay as long as these have rows.

    Returns:
        The files that were written; those that would not change are left untouched.
    """
    check_name(folder.name, "suite")
    written = {_check_method(results.info.name) for results in methods}
    others = {*list_methods(folder)} - written
    before = read_costs(folder)
    kept = before.loc[before["method"].isin(others)]
    costs = pd.concat([kept, *(results.costs for results in methods)])
    texts = {folder / COSTS: costs_text(costs)}
    for results in methods:
        path = folder / f"{results.info.name}.csv"
        for end, text in file_texts(_checked(results, path)).items():
            texts[path.with_name(f"{results.info.name}{end}")] = text
    changed = []
    for path, text in texts.items():
        if not holds(path, text.encode()):
            write_atomic(path, text.encode())
            changed.append(path)
    return changed


def costs_text(costs: pd.DataFrame) -> str:
    """Return the content of a suite's file of costs."""
    return write_csv(in_order(costs, Cost))


def file_texts(results: MethodResults) -> dict[str, str]:
    """Return the content of a method's own files by the ends of their names, the rows last."""
    about = {name: getattr(results, name) for name in ("config", "differs", "provenance")}
    info = asdict(results.info)
    for name in ("needs", "refused"):
        if not info[name]:
            del info[name]
    about |= {"schema_version": 1, "method": info}
    return {
        ".json": json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False) + "\n",
        ".csv": write_csv(in_order(results.rows, Row)),
    }


def _check_method(name: str) -> str:
    if f"{name}.csv" == COSTS:
        raise CompatbenchError(f"a method cannot be named {name!r}: {COSTS} holds times")
    return check_name(name, "method")


def _checked(results: MethodResults, path: Path) -> MethodResults:
    """The results, if all rows are the method's, and no two lines are for one measurement."""
    strangers = {*results.rows["method"].tolist(), *results.costs["method"].tolist()}
    strangers -= {results.info.name}
    if strangers:
        raise CompatbenchError(f"{path}: a row of method '{min(strangers)}'")
    _refuse_doubles(places_of(results.rows, Row), path)
    _refuse_doubles(places_of(results.costs, Cost), path.with_name(COSTS))
    return results


def _refuse_doubles(places: list[tuple[Any, ...]], path: Path) -> None:
    twice = [place for place, count in Counter(places).items() if count > 1]
    if twice:
        raise CompatbenchError(f"{path}: two lines for {', '.join(map(str, twice[0]))}")
