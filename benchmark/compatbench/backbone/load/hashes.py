"""SHA-256 of weights files, computed once for each state of a file."""

from __future__ import annotations

import contextlib
import json
import re
from functools import lru_cache
from pathlib import Path

from compatbench.data.cache_files import default_cache_folder
from compatbench.errors import BackboneError, CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import canonical_json, sha256_bytes, sha256_file

_SHA256 = re.compile(r"[0-9a-f]{64}")


def hash_weights(path: Path) -> str:
    """The SHA-256 of a file, remembered by path, size and time of change.

    Raises:
        BackboneError: it cannot be read, or is not what its cache says it is.
    """
    try:
        real = path.resolve()
        stat = real.stat()
        digest = _hash(real, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise BackboneError(
            f"cannot read weights {path}: {error.strerror}", "mend its permissions"
        ) from None
    # The hub's cache names a large file by its hash.
    if real.parent.name == "blobs" and _SHA256.fullmatch(real.name) and real.name != digest:
        raise BackboneError(
            f"weights {path} are damaged: their SHA-256 is not the one of the hub",
            f"delete {real} and fetch it again",
        )
    return digest


def check_known_hash(path: Path, url: str) -> None:
    """Holds a file against the hash that its publisher's address tells.

    OpenAI's addresses hold the whole hash, those of open_clip's releases its first digits.

    Raises:
        BackboneError: it is another file.
    """
    if not url or Path(url).name != path.name:
        return
    parts = url.split("/")
    told = parts[-2] if "openaipublic" in url else Path(url).stem.rpartition("-")[-1]
    known = _SHA256.fullmatch(told) or ("/open_clip/releases/" in url and len(told) == 8)
    if known and not hash_weights(path).startswith(told):
        raise BackboneError(
            f"weights {path} are damaged or another file: their SHA-256 is not the published one",
            f"fetch {url} again",
        )


@lru_cache(maxsize=256)
def _hash(path: Path, size: int, changed: int) -> str:
    state = {"path": str(path), "size": size, "changed": changed}
    folder = default_cache_folder() / "hashes"
    kept = folder / f"{sha256_bytes(str(path).encode())}.json"
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found.items() >= state.items() and _SHA256.fullmatch(str(found.get("sha256"))):
            return found["sha256"]
    digest = sha256_file(path)
    # Without a cache that can be written, it is only computed again.
    with contextlib.suppress(CompatbenchError):
        write_atomic(kept, canonical_json({**state, "sha256": digest}).encode())
    return digest
