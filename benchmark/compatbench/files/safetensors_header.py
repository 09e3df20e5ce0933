"""The header of a safetensors file, byte for byte: a parser passes over what changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compatbench.files.atomic import canonical_json

KEY = "compatbench"
MOST_BYTES = 100 * 2**20  # of a header; safetensors reads no larger one


def read_words(path: Path, text: str | None) -> dict[str, Any]:
    """What a file's header says in the words that compatbench wrote.

    Bytes that mean the same to a parser, such as white space of another kind or ``1E-05`` for
    ``1e-05``, are not those that were written.

    Args:
        text: the header's entry ``compatbench``, if it has one.

    Raises:
        ValueError: there is none, or it is not as it was written.
        OSError: the file cannot be read.
    """
    words = json.loads(text or "null")
    if not isinstance(words, dict):
        raise ValueError("its header says nothing of compatbench")
    if canonical_json(words) != text or not _ends_as_written(path):
        raise ValueError("its header is not as it was written")
    return words


def _ends_as_written(path: Path) -> bool:
    """Whether a header is padded with spaces alone."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return length <= MOST_BYTES and file.read(length).rstrip(b" ").endswith(b"}")
