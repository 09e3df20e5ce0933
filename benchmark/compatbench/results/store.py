"""The folder ``results/<suite>/``: three files per method, read and written exactly.

``<method>.csv`` holds the rows of every transfer, ``<method>.cost.csv`` what they took, and
``<method>.json`` what the method is and how it was set. The rows are written last,
and a method without them does not exist: an interrupted write is never half read.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from compatbench.data.cards.suite import COPIED
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.results.method_results import MethodInfo, MethodResults, SuiteResults
from compatbench.results.rows import AnyRow, Cost, Row, read_csv, write_csv

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")


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
    return {method: read_method(folder, method) for method in methods}


def read_method(folder: Path, method: str) -> MethodResults:
    """One method of ``results/<suite>/`` with all its transfers.

    Raises:
        CompatbenchError: as ``read_results``.
    """
    path, cost_path, about_path = (
        folder / f"{method}{end}" for end in (".csv", ".cost.csv", ".json")
    )
    for file in (path, cost_path, about_path):
        if file.is_symlink():
            raise CompatbenchError(f"{file} is a link; results are read from their own folder only")
    about = _read_about(about_path)
    if about.method.name != method:
        raise CompatbenchError(f"{about_path}: the method's name must be '{method}'")
    results = MethodResults(
        about.method,
        about.config,
        about.differs,
        about.provenance,
        tuple(read_csv(path, Row)),
        tuple(read_csv(cost_path, Cost)) if cost_path.exists() else (),
        transfer=None,
    )
    _check_rows(results, path)
    return results


def split_transfers(whole: MethodResults) -> dict[str, MethodResults]:
    """A method's results by transfer; without any row, of copied modules."""
    parts = {}
    for transfer in sorted({row.transfer for row in whole.rows}) or [COPIED]:
        rows = tuple(row for row in whole.rows if row.transfer == transfer)
        keys = {row.key for row in rows}
        costs = tuple(cost for cost in whole.costs if cost.key in keys)
        parts[transfer] = replace(whole, rows=rows, costs=costs, transfer=transfer)
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
    strangers = {row.method for row in results.rows} - {results.info.name}
    if strangers:
        raise CompatbenchError(f"{path}: a row of method '{min(strangers)}'")
    for lines in (results.rows, results.costs):
        orders = Counter(line.order for line in lines)
        twice = [order for order, count in orders.items() if count > 1]
        if twice:
            raise CompatbenchError(f"{path}: two lines for {', '.join(map(str, twice[0]))}")


def _write_if_new(path: Path, content: bytes) -> bool:
    if path.is_file() and not path.is_symlink() and path.read_bytes() == content:
        return False
    write_atomic(path, content)
    return True
