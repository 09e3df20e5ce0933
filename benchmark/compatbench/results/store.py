"""The folder ``results/<suite>/``: three files per method, read and written exactly.

``<method>.csv`` holds the rows, ``<method>.cost.csv`` what they took, and
``<method>.json`` what the method is and how it was set. The rows are written last,
and a method without them does not exist: an interrupted write is never half read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from compatbench.data.cards import ConfigName
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.results.rows import Cost, Row, read_csv, write_csv

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
    """All that is known of one method in one suite.

    Attributes:
        config: the resolved settings, as JSON values.
        differs: settings that the suite changed: name -> (published recipe, suite).
        provenance: name -> every version, or processor, that some row was made with.
    """

    info: MethodInfo
    config: Mapping[str, Any]
    differs: Mapping[str, tuple[Any, Any]]
    provenance: Mapping[str, tuple[str, ...]]
    rows: tuple[Row, ...]
    costs: tuple[Cost, ...] = ()


@dataclass(frozen=True)
class SuiteResults:
    """The results of a suite: method name -> its results, in the order of the names."""

    name: str
    methods: Mapping[str, MethodResults]


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
    suite = check_name(folder.name, "suite")
    try:
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise CompatbenchError(f"cannot read {folder}: {error.strerror}") from None
    methods = {}
    for name in names:
        # Dot files are the remains of an interrupted write, or the system's.
        if name.endswith(".csv") and not name.endswith(".cost.csv") and not name.startswith("."):
            method = _check_method(name.removesuffix(".csv"))
            methods[method] = read_method(folder, method)
    return SuiteResults(suite, methods)


def write_results(folder: Path, results: MethodResults) -> list[Path]:
    """Writes a method's three files: the same results give the same bytes.

    Returns:
        The files that changed; the others are left untouched.

    Raises:
        CompatbenchError: an unsafe name, a row of another method, two rows for one
            measurement, or a folder that cannot be written.
    """
    check_name(folder.name, "suite")
    method = _check_method(results.info.name)
    rows = sorted(results.rows, key=lambda row: row.order)
    costs = sorted(results.costs, key=lambda cost: cost.order)
    _check_rows(rows, costs, method, folder / f"{method}.csv")
    contents = {
        f"{method}.json": about_text(results),
        f"{method}.cost.csv": write_csv(costs, Cost),
        f"{method}.csv": write_csv(rows, Row),
    }
    return [
        folder / name
        for name, content in contents.items()
        if _write_if_new(folder / name, content.encode())
    ]


def merge_rows(old: list[Row], new: list[Row], valid_keys: set[str]) -> list[Row]:
    """The rows of two runs together, in the order of their file.

    An old row stays if its key is valid and no new row stands in its place. A new
    failure does not take the place of an old answer under the same key: the fit is
    the same, so the answer still holds.
    """
    return _merge(old, new, valid_keys, lambda row: row.status != "failed")


def merge_costs(old: list[Cost], new: list[Cost], valid_keys: set[str]) -> list[Cost]:
    """The costs of two runs together; an old one stays if its key is valid and none is newer."""
    return _merge(old, new, valid_keys, lambda _: True)


def merge_results(
    old: MethodResults | None, new: MethodResults, valid_keys: set[str]
) -> MethodResults:
    """Two machines' work on one method: rows, costs and, if an old row stays, provenance.

    Info, config and differs are those of ``new``. Of two lines of ``new`` for one
    measurement the later counts.
    """
    old_rows, old_costs = (list(old.rows), list(old.costs)) if old else ([], [])
    rows = merge_rows(old_rows, list(new.rows), valid_keys)
    keys = {row.key for row in rows}
    costs = merge_costs(old_costs, list(new.costs), valid_keys & keys)
    parts = [new.provenance]
    if old and set(rows) - set(new.rows):
        parts.append(old.provenance)
    provenance = join_provenance(parts)
    return MethodResults(new.info, new.config, new.differs, provenance, tuple(rows), tuple(costs))


def join_provenance(
    parts: Iterable[Mapping[str, str | Iterable[str]]],
) -> dict[str, tuple[str, ...]]:
    """Every name with all its values, sorted; a value may be one string or several."""
    joined: dict[str, set[str]] = {}
    for part in parts:
        for name, values in part.items():
            joined.setdefault(name, set()).update([values] if isinstance(values, str) else values)
    return {name: tuple(sorted(joined[name])) for name in sorted(joined)}


Line = TypeVar("Line", Row, Cost)


def _merge(
    old: list[Line], new: list[Line], valid_keys: set[str], answers: Callable[[Line], bool]
) -> list[Line]:
    merged = {line.order: line for line in old if line.key in valid_keys}
    for line in new:
        before = merged.get(line.order)
        if before and before.key == line.key and answers(before) and not answers(line):
            continue
        merged[line.order] = line
    return sorted(merged.values(), key=lambda line: line.order)


def _check_method(name: str) -> str:
    if name.endswith(".cost"):
        raise CompatbenchError(f"method {name!r} may not end in '.cost'; its files would clash")
    return check_name(name, "method")


def read_method(folder: Path, method: str) -> MethodResults:
    """Reads one method's three files in ``results/<suite>/``.

    Raises:
        CompatbenchError: as ``read_results``.
    """
    path = folder / f"{method}.csv"
    cost_path = folder / f"{method}.cost.csv"
    about_path = folder / f"{method}.json"
    for file in (path, cost_path, about_path):
        if file.is_symlink():
            raise CompatbenchError(f"{file} is a link; results are read from their own folder only")
    about = _read_about(about_path)
    if about.method.name != method:
        raise CompatbenchError(f"{about_path}: the method's name must be '{method}'")
    rows = read_csv(path, Row)
    costs = read_csv(cost_path, Cost) if cost_path.exists() else []
    _check_rows(rows, costs, method, path)
    return MethodResults(
        about.method, about.config, about.differs, about.provenance, tuple(rows), tuple(costs)
    )


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


def _check_rows(rows: list[Row], costs: list[Cost], method: str, path: Path) -> None:
    for row in rows:
        if row.method != method:
            raise CompatbenchError(f"{path}: a row of method '{row.method}'")
    for lines in (rows, costs):
        orders = [line.order for line in lines]
        if len(set(orders)) < len(orders):
            twice = next(order for order in orders if orders.count(order) > 1)
            raise CompatbenchError(f"{path}: two lines for {', '.join(map(str, twice))}")


def _write_if_new(path: Path, content: bytes) -> bool:
    if path.is_file() and not path.is_symlink() and path.read_bytes() == content:
        return False
    write_atomic(path, content)
    return True
