"""The files of the feature cache: how they are written, read, listed and pruned."""

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

FEATURES = "features"  # the folder of the cache's entries, and the name of each one's tensor
CHECKSUMS = ("sha256", "header")
KEY_FIELD = "key"
PARTS = ".parts"  # the ending of a folder with the first rows of an entry


def default_cache_folder() -> Path:
    """Return ``$COMPATBENCH_CACHE``, or ``compatbench`` in the user's cache folder."""
    chosen = os.environ.get("COMPATBENCH_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "compatbench"


def write_entry(path: Path, features: Tensor, about: dict[str, Any]) -> None:
    """Write features ``[images, e]`` with a checksum of their bytes, and of the whole header.

    The key is the entry's name. The header repeats it, so that no entry is read in place of
    another. ``about`` describes the features for people.
    """
    from safetensors.torch import save

    features = features.contiguous()
    header = canonical_json(_seal(features, {**about, KEY_FIELD: _key_of(path)}))
    write_atomic(path, save({FEATURES: features}, {KEY: header}))


def read_entry(path: Path, *, warn: bool = False) -> Tensor | None:
    """Return the features of an entry, or None if its file is damaged or is of another entry.

    Entries of versions before 0.3 do not name their key, and are computed again without a warning.
    """
    values, features = _open(path)
    about = {name: value for name, value in values.items() if name not in CHECKSUMS}
    is_own = values.get(KEY_FIELD) == _key_of(path)
    if features is not None and is_own and values == _seal(features, about):
        return features
    is_old = bool(values) and KEY_FIELD not in values
    if warn and path.is_file() and not is_old:
        problem = "is damaged" if is_own or not values else "holds the features of another entry"
        message = f"{path} {problem} and is computed again"
        warnings.warn(message, CompatbenchWarning, stacklevel=3)
    return None


def _key_of(path: Path) -> str:
    """Return what names an entry: its key, or the key of a whole entry and the part's first row."""
    if path.parent.suffix == PARTS:
        return f"{path.parent.stem}/{path.stem}"
    return path.stem


def _seal(features: Tensor, about: dict[str, Any]) -> dict[str, Any]:
    """Return a description with the checksums of the features and of itself."""
    import torch

    # The features are viewed as bytes, since numpy has no bfloat16.
    content = features.view(torch.uint8).numpy().tobytes()
    values = {**about, "sha256": sha256_bytes(content)}
    header = sha256_json([values, str(features.dtype), list(features.shape)])
    return {**values, "header": header}


def _open(path: Path) -> tuple[dict[str, Any], Tensor | None]:
    """Return an entry's description and memory-mapped features; nothing if it is unreadable."""
    try:
        values, tensors = read_tensors(path)
    except (CompatbenchError, SafetensorError, OSError, ValueError, RecursionError):
        return {}, None
    return values, tensors.get(FEATURES)


class Unfinished:
    """Rows of entries that are still being encoded, from which a stopped run resumes."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """``paths``: the files of the whole entries, which all have the same number of rows."""
        self._folders = [path.with_suffix(PARTS) for path in paths]

    def read(self) -> list[Tensor]:
        """Return the first rows that all entries have, ``[entries, n, ...]``, in a list, or []."""
        import torch

        views: list[Tensor] = []
        for folder in self._folders:
            parts: list[Tensor] = []
            start = 0
            part = read_entry(_part_path(folder, start))
            while part is not None:
                parts.append(part)
                start += len(part)
                part = read_entry(_part_path(folder, start))
            if not parts:
                return []
            views.append(torch.cat(parts))
        # A stop between two writes leaves some entries with more rows than others.
        common = min(map(len, views))
        return [torch.stack([rows[:common] for rows in views])]

    def write(self, start: int, rows: Tensor, about: dict[str, Any]) -> None:
        """Store rows of each entry, ``[entries, n, ...]``, which begin at the row ``start``."""
        for folder, part in zip(self._folders, rows, strict=True):
            write_entry(_part_path(folder, start), part, {**about, "from": start})

    def remove(self) -> None:
        """Delete all stored rows."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


def _part_path(folder: Path, start: int) -> Path:
    return folder / f"{start:09}.safetensors"


@dataclass(frozen=True)
class Entry:
    """One file of the cache."""

    path: Path
    size: int  # bytes on disk
    age: float  # seconds since it was written or, if the cache has a limit, last used

    @property
    def about(self) -> dict[str, Any]:
        """Return its description; empty if its header cannot be read."""
        description, _ = _open(self.path)
        return description


def list_entries(folder: Path) -> list[Entry]:
    """Return the entries of a cache, oldest first."""
    now = time.time()
    entries = []
    try:
        for path in (folder / FEATURES).rglob("*.safetensors"):
            with suppress(FileNotFoundError):  # another process may prune it meanwhile
                stat = path.stat()
                entries.append(Entry(path, stat.st_size, now - stat.st_mtime))
    except OSError as error:
        raise CompatbenchError(f"cannot read the cache {folder}: {error.strerror}") from None
    return sorted(entries, key=lambda entry: -entry.age)


def prune_entries(folder: Path, max_bytes: int | None, max_age: float | None) -> list[Entry]:
    """Delete entries older than ``max_age`` seconds, then the oldest ones beyond ``max_bytes``.

    Return the deleted entries. Nothing is lost: they are computed again when they are needed.
    """
    deleted: list[Entry] = []
    entries = list_entries(folder)
    total = sum(entry.size for entry in entries)
    for entry in entries:
        too_old = max_age is not None and entry.age > max_age
        too_large = max_bytes is not None and total > max_bytes
        if not too_old and not too_large:
            break  # the following entries are younger
        total -= entry.size
        deleted.append(entry)
        delete_paths([entry.path, entry.path.with_suffix(".lock")])
    return deleted
