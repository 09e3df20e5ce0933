"""Records of older layouts in ``runs/cells/``, to the present one.

A record keeps its key. The layout is part of what a key is made of, so no migrated record
is ever taken for a cell of the present code; it can be looked at, and is not called damaged.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compatbench.errors import CompatbenchError
from compatbench.files import sha256_bytes
from compatbench.migrate.files import Rewrite, read_file, write_rewrites
from compatbench.run.cell import SCHEMA, CellRecord

_SEAL = re.compile(rb'\{\n "sha256": "([0-9a-f]{64})",\n')
OLDEST = 1


def migrate_runs(runs: Path, write: bool, backup: bool = True) -> list[Rewrite]:
    """Finds, and unless told otherwise rewrites, the records of older layouts.

    A damaged record is left as it is: the store sets it aside when the cell is next run.

    Args:
        runs: the folder ``runs``; one that is not there holds nothing to do.

    Returns:
        What was, or would be, rewritten.

    Raises:
        CompatbenchError: a record of a newer layout, or a folder that cannot be written.
    """
    rewrites = []
    for path in sorted((runs / "cells").glob("*/*.json")):
        if not path.name.startswith("."):
            rewrite = _rewrite_record(path)
            if rewrite is not None:
                rewrites.append(rewrite)
    if write:
        write_rewrites(rewrites, backup)
    return rewrites


def _rewrite_record(path: Path) -> Rewrite | None:
    content = read_file(path)
    values = _read_record(content)
    if values is None:
        return None
    version = values.get("schema_version")
    if version == SCHEMA:
        return None
    if not isinstance(version, int) or version > SCHEMA or version < OLDEST:
        raise CompatbenchError(
            f"{path}: 'schema_version': {version!r:.40} is not known; it may be of a newer "
            "compatbench: update this one"
        )
    try:
        after = _seal(CellRecord.model_validate(values | {"schema_version": SCHEMA}))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "record"
        raise CompatbenchError(f"{path}: '{field}': {first['msg']}") from None
    except ValueError:
        raise CompatbenchError(f"{path}: it holds characters that are none") from None
    return Rewrite(path, content, after, f"of schema version {version}")


def _read_record(content: bytes) -> dict[str, Any] | None:
    """A record's values, or None if it is damaged. The oldest layout has no checksum."""
    if seal := _SEAL.match(content):
        rest = content[seal.end() :]
        if sha256_bytes(rest) != seal[1].decode():
            return None
        content = b"{\n" + rest
    try:
        values = json.loads(content.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or (not seal and values.get("schema_version") == SCHEMA):
        return None
    return values


def _seal(record: CellRecord) -> bytes:
    """The present layout: as the store writes it, its first field the checksum of the rest."""
    rest = record.model_dump_json(indent=1).encode().removeprefix(b"{\n") + b"\n"
    return f'{{\n "sha256": "{sha256_bytes(rest)}",\n'.encode() + rest
