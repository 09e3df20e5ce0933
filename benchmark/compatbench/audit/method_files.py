"""The files of ``results/<suite>/``: each is of a method, whole, and written by ``run``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from compatbench.audit.findings import Finding
from compatbench.errors import CompatbenchError
from compatbench.results.rows import Cost, Row, write_csv
from compatbench.results.store import MethodResults, about_text, read_method

KINDS = COST, ROWS, DESCRIPTION = ".cost.csv", ".csv", ".json"
# What names a measurement of a method; no two rows of a file share it.
PLACE = ["transfer", "task", "source", "shots", "seed", "backbone", "test_set"]
FLIPS = ["negative_flips", "positive_flips", "inconsistent_errors"]
COUNTS = ["correct", "total", "zero_shot_correct", *FLIPS]


def read_suite(folder: Path) -> tuple[dict[str, MethodResults], list[Finding]]:
    """Reads a suite's folder; a file that is broken is named, and the others are read."""
    methods, findings = {}, []
    try:
        paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    except OSError as error:
        return {}, [Finding(str(folder), f"cannot be read: {error.strerror}")]
    for path in paths:
        kind = next((kind for kind in KINDS if path.name.endswith(kind)), "")
        method = path.name.removesuffix(kind)
        if kind != ROWS:
            if not kind or folder / f"{method}{ROWS}" not in paths:
                findings.append(Finding(str(path), "no results of a method belong to this file"))
            continue
        try:
            methods[method] = read_method(folder, method)
        except CompatbenchError as error:
            findings.append(_broken(str(error), path))
            continue
        findings += _rewritten(folder, methods[method])
    return methods, findings


def row_frame(folder: Path, methods: Iterable[MethodResults]) -> pd.DataFrame:
    """The rows of some methods, each with its ``file`` and ``line``."""
    return frame_of(
        [(str(folder / f"{one.info.name}{ROWS}"), one.info.name, one.rows) for one in methods]
    )


def cost_frame(folder: Path, methods: Iterable[MethodResults]) -> pd.DataFrame:
    """The lines of the cost files of some methods, each with its ``file`` and ``line``."""
    parts = [(str(folder / f"{one.info.name}{COST}"), one.info.name, one.costs) for one in methods]
    return frame_of(parts, Cost)


def frame_of(
    parts: Iterable[tuple[str, str, Sequence[Row | Cost]]], model: type[Row | Cost] = Row
) -> pd.DataFrame:
    """Rows as a frame with the columns of their model, ``method``, ``file`` and ``line``.

    Args:
        parts: the file, the method and the rows of each file, in the order of its lines.
    """
    columns = dict.fromkeys([*model.model_fields, "method", "file", "line"])
    records = [
        {**row.model_dump(), "method": method, "file": file, "line": line}
        for file, method, rows in parts
        for line, row in enumerate(rows, 2)
    ]
    frame = pd.DataFrame(records, columns=list(columns))
    # Empty counts are missing values, not floats.
    types = dict.fromkeys(COUNTS, "Int64") | {"shots": "int64", "seed": "int64"}
    return frame.astype({name: kind for name, kind in types.items() if name in columns})


def _broken(message: str, path: Path) -> Finding:
    """What the reader says of a file it refuses; the message names the place itself."""
    for file in (path, path.with_suffix(COST), path.with_suffix(DESCRIPTION)):
        prefix = f"{file}:"
        if message.startswith(prefix):
            problem = message.removeprefix(prefix)
            number, _, rest = problem.partition(":")
            if number.isdecimal():
                return Finding(str(file), rest.strip(), int(number))
            return Finding(str(file), problem.strip())
    return Finding(str(path), message)


def _rewritten(folder: Path, results: MethodResults) -> list[Finding]:
    """Files whose content is valid, but not as it is written: edited, or out of order."""
    name = results.info.name
    rows = sorted(results.rows, key=lambda row: row.order)
    costs = sorted(results.costs, key=lambda cost: cost.order)
    texts = {ROWS: write_csv(rows, Row), COST: write_csv(costs, Cost)}
    texts[DESCRIPTION] = about_text(results)
    findings = []
    for kind, text in texts.items():
        path = folder / f"{name}{kind}"
        if not path.is_file():
            findings.append(Finding(str(path), "is missing; what the rows cost stands there"))
            continue
        found, expected = path.read_bytes().split(b"\n"), text.encode().split(b"\n")
        if found != expected:
            line = first_difference(expected, found)
            findings.append(Finding(str(path), "is not as 'compatbench run' writes it", line))
    return findings


def first_difference(expected: Sequence[object], found: Sequence[object]) -> int:
    """The first line, from 1, in which two files differ; they must differ somewhere."""
    pairs = enumerate(zip(expected, found, strict=False), 1)
    return next((n for n, (a, b) in pairs if a != b), min(len(expected), len(found)) + 1)
