"""The folder ``results/<suite>/``: three files per method, read and written exactly.

``<method>.csv`` holds the rows of every transfer, ``<method>.cost.csv`` what they took, and
``<method>.json`` what the method is and how it was set. The rows are written last,
and a method without them does not exist: an interrupted write is never half read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from compatbench.data.cards.suite import COPIED
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.results.frame import Table, read_frames
from compatbench.results.method_results import MethodInfo, MethodResults, SuiteResults
from compatbench.results.rows import AnyRow, Cost, Row, write_csv

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
