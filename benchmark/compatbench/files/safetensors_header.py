"""What compatbench writes in the header of a safetensors file, checked byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compatbench.files.hashes import canonical_json

KEY = "compatbench"  # the one entry of the header's metadata
MOST_BYTES = 100 * 2**20  # of a header; safetensors reads no larger one


def read_header(path: Path, text: str | None) -> dict[str, Any]:
    """The values that compatbench wrote in a file's header.

    A parser accepts other bytes for the same values, such as white space of another kind or
    ``1E-05`` for ``1e-05``. They are refused: the file was changed.

    Args:
        text: the metadata's entry ``compatbench``, if there is one.

    Raises:
        ValueError: there is none, or it is not as it was written.
        OSError: the file cannot be read.
    """
    values = json.loads(text or "null")
    if not isinstance(values, dict):
        raise ValueError("its header has no entry of compatbench")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        # safetensors pads a header with spaces.
        padded = length <= MOST_BYTES and file.read(length).rstrip(b" ").endswith(b"}")
    if canonical_json(values) != text or not padded:
        raise ValueError("its header is not as it was written")
    return values
