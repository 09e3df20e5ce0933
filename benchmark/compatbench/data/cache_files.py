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
from compatbench.files.atomic import canonical_json, sha256_bytes, sha256_json, write_atomic
from compatbench.files.safetensors_header import KEY, read_words

if TYPE_CHECKING:
    from torch import Tensor

FEATURES = "features"
_OLD_WORDS = {"backbone", "task", "images", "view", "sha256"}


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
    """Writes features ``[images, e]`` with a checksum of their bytes, and of the whole header."""
    from safetensors.torch import save

    features = features.contiguous()
    words = {**about, "sha256": _checksum(features)}
    header = canonical_json({**words, "header": _header_checksum(words, features)})
    write_atomic(path, save({"features": features}, {KEY: header}))


def read_entry(path: Path) -> Tensor | None:
    """The features of an entry, or None if its bytes are not those that were written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            features: Tensor = file.get_tensor("features")
            words = read_words(path, (file.metadata() or {}).get(KEY))
    except (SafetensorError, OSError, ValueError, RecursionError):
        return None
    header = words.pop("header", None)
    # Entries of earlier versions have no checksum of the header, and no other words.
    known = words.keys() == _OLD_WORDS if header is None else True
    if not known or header not in (None, _header_checksum(words, features)):
        return None
    return features if words.get("sha256") == _checksum(features) else None


def _header_checksum(words: dict[str, Any], features: Tensor) -> str:
    return sha256_json([words, str(features.dtype), list(features.shape)])


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
        about = json.loads(header["__metadata__"][KEY])
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
