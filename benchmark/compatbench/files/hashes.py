"""SHA-256 of bytes, files and JSON values, as 64 hexadecimal digits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def sha256_bytes(*parts: bytes) -> str:
    """Return the SHA-256 of the parts, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def hash_file(path: Path, kind: str = "sha256") -> str:
    """Return the hash of a file's bytes: SHA-256, or MD5 if ``kind`` is ``md5``."""

    def new_digest() -> Any:
        # Some builds of Python refuse MD5 where it may serve security.
        return hashlib.new(kind, usedforsecurity=False)

    with path.open("rb") as file:
        digest = hashlib.file_digest(file, new_digest)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    return sha256_bytes(canonical_json(value).encode())


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no white space, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
