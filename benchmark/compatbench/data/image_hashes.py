"""Hashes of files of images, kept in the cache folder until a file's size or time changes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from compatbench.data.cache_files import default_cache_folder
from compatbench.data.images.dataset_files import reading
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import canonical_json, hash_file, sha256_bytes


def hash_images(folder: Path, paths: Iterable[Path]) -> list[str]:
    """Return the SHA-256 of each file; those that have not changed since are not read again.

    Args:
        folder: of the dataset, whose hashes are kept in one file.
        paths: of the files; several may be the same.
    """
    place = sha256_bytes(os.path.realpath(folder).encode())
    kept = default_cache_folder() / "hashes" / f"images-{place}.json"
    known = _read(kept)
    named = [str(path) for path in paths]
    states = {}
    for name in dict.fromkeys(named):
        with reading(Path(name)):
            facts = os.stat(name)
        states[name] = [facts.st_size, facts.st_mtime_ns]
    changed = [name for name, state in states.items() if known.get(name, [])[:2] != state]

    def read(name: str) -> str:
        with reading(Path(name)):
            return hash_file(Path(name))

    with ThreadPoolExecutor() as pool:  # threads, since hashing releases the GIL
        for name, digest in zip(changed, pool.map(read, changed), strict=True):
            known[name] = [*states[name], digest]
    # If the cache cannot be written, the hashes are computed again next time.
    if changed:
        with suppress(CompatbenchError):
            write_atomic(kept, canonical_json(known).encode())
    return [str(known[name][2]) for name in named]


def _read(kept: Path) -> dict[str, list[object]]:
    """Return the size, time and hash of each file; a damaged entry is left out."""
    entries: object = None
    with suppress(OSError, ValueError, RecursionError):
        entries = json.loads(kept.read_text(encoding="utf-8"))
    if not isinstance(entries, dict):
        return {}
    return {name: entry for name, entry in entries.items() if _is_whole(entry)}


def _is_whole(entry: object) -> bool:
    return isinstance(entry, list) and [type(each) for each in entry] == [int, int, str]
