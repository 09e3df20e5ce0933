"""The files of the feature cache: written, read, listed and pruned."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import canonical_json, sha256_bytes, sha256_json
from compatbench.files.kinds import delete_paths
from compatbench.files.tensors import KEY, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

FEATURES = "features"  # the cache's folder of entries, and the name of the tensor in each
CHECKSUMS = ("sha256", "header")


def default_cache_folder() -> Path:
    """``$COMPATBENCH_CACHE``, or ``compatbench`` in the user's cache folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("COMPATBENCH_CACHE") or base / "compatbench")


def write_entry(path: Path, features: Tensor, about: dict[str, Any]) -> None:
    """Writes features ``[images, e]`` with a checksum of their bytes, and of the whole header.

    What is said ``about`` them is for people: an entry's name is its key.
    """
    from safetensors.torch import save

    features = features.contiguous()
    write_atomic(path, save({FEATURES: features}, {KEY: canonical_json(_seal(features, about))}))


def read_entry(path: Path, *, warn: bool = False) -> Tensor | None:
    """The features of an entry, or None if its bytes are not those that were written."""
    values, features = _open(path)
    about = {name: value for name, value in values.items() if name not in CHECKSUMS}
    if features is not None and values == _seal(features, about):
        return features
    if warn and path.is_file():
        what = f"{path} is damaged and is computed again"
        warnings.warn(what, CompatbenchWarning, stacklevel=3)
    return None


def _seal(features: Tensor, about: dict[str, Any]) -> dict[str, Any]:
    """A description with the checksums of the features and of itself."""
    import torch

    # As bytes, since numpy has no bfloat16.
    content = features.view(torch.uint8).numpy().tobytes()
    values = {**about, "sha256": sha256_bytes(content)}
    return {**values, "header": sha256_json([values, str(features.dtype), list(features.shape)])}


def _open(path: Path) -> tuple[dict[str, Any], Tensor | None]:
    """An entry's description, and its features, memory-mapped; nothing if it cannot be read."""
    try:
        values, tensors = read_tensors(path)
    except (CompatbenchError, SafetensorError, OSError, ValueError, RecursionError):
        return {}, None
    return values, tensors.get(FEATURES)


class Unfinished:
    """Rows of entries that are being encoded, so that a run that was stopped goes on with them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """``paths``: those of the whole entries, which have as many rows each."""
        self._folders = [path.with_suffix(".parts") for path in paths]

    def read(self) -> list[Tensor]:
        """The first rows of all entries, as many of each, ``[entries, n, ...]``; or nothing."""
        import torch

        views: list[Tensor] = []
        for folder in self._folders:
            parts = list[Any]()
            while True:
                start = sum(map(len, parts))
                if (part := read_entry(folder / f"{start:09}.safetensors")) is None:
                    break
                parts.append(part)
            if not parts:
                return []
            views.append(torch.cat(parts))
        least = min(map(len, views))
        return [torch.stack([rows[:least] for rows in views])]

    def write(self, start: int, rows: Tensor, about: dict[str, Any]) -> None:
        """Keeps rows of each entry, from the row ``start`` on."""
        for folder, part in zip(self._folders, rows, strict=True):
            write_entry(folder / f"{start:09}.safetensors", part, {**about, "from": start})

    def remove(self) -> None:
        """Deletes all of them."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Entry:
    """One file of the cache."""

    path: Path
    size: int  # bytes on disk
    age: float  # seconds since it was written, or used under a limit

    @property
    def about(self) -> dict[str, Any]:
        """Its description; empty if its header cannot be read."""
        return _open(self.path)[0]


def list_entries(folder: Path) -> list[Entry]:
    """The entries of a cache, oldest first."""
    now, entries = time.time(), []
    try:
        for path in (folder / FEATURES).rglob("*.safetensors"):
            with suppress(FileNotFoundError):  # another process has pruned it
                stat = path.stat()
                entries.append(Entry(path, stat.st_size, now - stat.st_mtime))
    except OSError as error:
        raise CompatbenchError(f"cannot read the cache {folder}: {error.strerror}") from None
    return sorted(entries, key=lambda entry: -entry.age)


def prune_entries(folder: Path, most_bytes: int | None, most_age: float | None) -> list[Entry]:
    """Deletes entries older than ``most_age`` seconds, then the oldest beyond ``most_bytes``.

    Entries are named by content, so what is deleted, and returned, is only computed again.
    """
    deleted: list[Entry] = []
    entries = list_entries(folder)
    total = sum(entry.size for entry in entries)
    for entry in entries:
        too_old = most_age is not None and entry.age > most_age
        if not too_old and (most_bytes is None or total <= most_bytes):
            break  # those that follow are younger
        total -= entry.size
        deleted.append(entry)
        delete_paths([entry.path, entry.path.with_suffix(".lock")])
    return deleted
