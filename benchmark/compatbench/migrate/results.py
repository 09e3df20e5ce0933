"""``results/<suite>/<method>.csv`` and ``.cost.csv`` of older layouts, to the present columns."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from pydantic import ValidationError

from compatbench.errors import CompatbenchError
from compatbench.leaderboard.rows import AnyRow, Cost, Row, write_csv
from compatbench.migrate.files import Rewrite, read_file, write_rewrites

# The columns of every layout that was ever published. What a new one adds is optional, and
# stays empty; what it took away is refused.
_FIT = "method,task,test_set,source,backbone,shots,seed,status,correct,total,zero_shot_correct"
_MODULE = "parameters,module_bytes,reason,key,data"
ROW_LAYOUTS = {
    f"{_FIT},{_MODULE}": "without flips and calibration",
    f"{_FIT},negative_flips,positive_flips,inconsistent_errors,ece,{_MODULE}": "of version 0.1",
}
COST_LAYOUTS = {
    "key,backbone,test_set,fit_seconds,evaluate_seconds": "of version 0.1",
}
ABOUT_VERSION = 1


def migrate_results(results: Path, write: bool, backup: bool = True) -> list[Rewrite]:
    """Finds, and unless told otherwise rewrites, the files of older layouts.

    Everything is read before anything is written: one file that is not understood, and
    nothing is changed.

    Args:
        results: the folder ``results``; one that is not there holds nothing to do.
        write: whether files are rewritten.

    Returns:
        What was, or would be, rewritten.

    Raises:
        CompatbenchError: a file of a layout that is not known, or that breaks its own; or a
            folder that cannot be written.
    """
    rewrites = []
    for path in sorted(results.glob("*/*")):
        if path.name.startswith(".") or path.parent.is_symlink():
            continue
        if path.name.endswith(".cost.csv"):
            rewrite = _rewrite_csv(path, Cost, COST_LAYOUTS)
        elif path.name.endswith(".csv"):
            rewrite = _rewrite_csv(path, Row, ROW_LAYOUTS)
        elif path.name.endswith(".json"):
            _check_about(path)
            continue
        else:
            continue
        if rewrite is not None:
            rewrites.append(rewrite)
    if write:
        write_rewrites(rewrites, backup)
    return rewrites


def _rewrite_csv(path: Path, model: type[AnyRow], layouts: dict[str, str]) -> Rewrite | None:
    content = read_file(path)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise CompatbenchError(f"cannot read {path}: {error}") from None
    header = text.splitlines()[0] if text else ""
    if header.split(",") in _present(model):
        return None
    if header not in layouts:
        raise CompatbenchError(
            f"{path}:1: these columns are of no layout that is known; move the file away, and "
            "'compatbench run' writes it anew from runs/"
        )
    after = write_csv(_read_rows(path, text, model), model).encode()
    return Rewrite(path, content, after, layouts[header]) if after != content else None


def _present(model: type[AnyRow]) -> list[list[str]]:
    """The columns that are read as they are: all, or those that are never left out."""
    names = list(model.model_fields)
    return [names, [name for name in names if name not in model.optional]]


def _read_rows(path: Path, text: str, model: type[AnyRow]) -> list[AnyRow]:
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="surplus")
    rows: list[AnyRow] = []
    line_number = 1
    try:
        for line in reader:
            line_number = reader.line_num
            values = {name: value for name, value in line.items() if value not in ("", None)}
            rows.append(model.model_validate(values))
    except csv.Error as error:
        raise CompatbenchError(f"cannot read {path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "row"
        raise CompatbenchError(f"{path}:{line_number}: '{field}': {first['msg']}") from None
    return rows


def _check_about(path: Path) -> None:
    """There is one layout of these files so far; a newer one is not understood."""
    try:
        about = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise CompatbenchError(f"{path} is no JSON: {str(error).splitlines()[0]}") from None
    version = about.get("schema_version", ABOUT_VERSION) if isinstance(about, dict) else None
    if version != ABOUT_VERSION:
        raise CompatbenchError(
            f"{path}: 'schema_version': {version!r:.40} is not known; it may be of a newer "
            "compatbench: update this one"
        )
