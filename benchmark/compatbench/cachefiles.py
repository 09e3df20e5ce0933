"""The files of the feature cache: written, read, listed, verified and pruned."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compatbench.errors import CompatbenchError
from compatbench.files import canonical_json, sha256_bytes, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

FEATURES = "features"


def default_cache_folder() -> Path:
    """``$COMPATBENCH_CACHE``, or ``compatbench`` in the user's cache folder."""
    if folder := os.environ.get("COMPATBENCH_CACHE"):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "compatbench"


def describe_entry(backbone: str, task: str, images: int, view: int) -> dict[str, Any]:
    """What an entry says of itself; for people, its name decides."""
    return {"backbone": backbone, "task": task, "images": images, "view": view}


def write_entry(path: Path, features: Tensor, about: dict[str, Any]) -> None:
    """Writes features ``[images, e]`` with a checksum of their bytes."""
    from safetensors.torch import save

    features = features.contiguous()
    header = canonical_json({**about, "sha256": _checksum(features)})
    write_atomic(path, save({"features": features}, {"compatbench": header}))


def read_entry(path: Path) -> Tensor | None:
    """The features of an entry, or None if its bytes are not those that were written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            features: Tensor = file.get_tensor("features")
            header = json.loads((file.metadata() or {}).get("compatbench", "{}"))
            intact = header.get("sha256") == _checksum(features)
    except (SafetensorError, OSError, ValueError, AttributeError, RecursionError):
        return None
    return features if intact else None


def _checksum(features: Tensor) -> str:
    import torch

    # As bytes, for numpy has no bfloat16.
    return sha256_bytes(features.contiguous().view(torch.uint8).numpy().tobytes())


@dataclass(frozen=True)
class Entry:
    """One file of the cache.

    Attributes:
        about: what the entry says of itself; empty if its header cannot be read.
        size: bytes on disk.
        age: seconds since it was written or last marked as used.
    """

    path: Path
    about: dict[str, Any]
    size: int
    age: float


def list_entries(folder: Path) -> list[Entry]:
    """The entries of a cache, oldest first.

    Raises:
        CompatbenchError: the folder cannot be read.
    """
    try:
        return sorted(_entries(folder / FEATURES), key=lambda entry: -entry.age)
    except OSError as error:
        raise CompatbenchError(f"cannot read the cache {folder}: {error.strerror}") from None


def _entries(folder: Path) -> Iterator[Entry]:
    now = time.time()
    for path in folder.rglob("*.safetensors"):
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue  # another process has pruned it
        yield Entry(path, _read_header(path), stat.st_size, now - stat.st_mtime)


def _read_header(path: Path) -> dict[str, Any]:
    """The entry's description, from the head of the file alone."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, 1 << 20)))
        about = json.loads(header["__metadata__"]["compatbench"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def prune_entries(folder: Path, most_bytes: int | None, most_age: float | None) -> list[Entry]:
    """Deletes entries older than ``most_age`` seconds, then the oldest beyond ``most_bytes``.

    Entries are named by content, so whatever is deleted is only computed again.

    Returns:
        What was deleted.
    """
    entries = list_entries(folder)
    doomed = [entry for entry in entries if most_age is not None and entry.age > most_age]
    kept = [entry for entry in entries if entry not in doomed]
    total = sum(entry.size for entry in kept)
    while most_bytes is not None and total > most_bytes:
        oldest = kept.pop(0)
        doomed.append(oldest)
        total -= oldest.size
    for entry in doomed:
        entry.path.unlink(missing_ok=True)
        entry.path.with_suffix(".lock").unlink(missing_ok=True)
    return doomed
