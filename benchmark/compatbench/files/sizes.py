"""Sizes in bytes, as people write and read them; units are powers of 1024."""

from __future__ import annotations

import re

from compatbench.errors import CompatbenchError


def parse_bytes(text: str) -> int:
    """A size such as ``500M`` or ``1.5G`` in bytes; what is none is a ``CompatbenchError``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise CompatbenchError(f"'{text}' is not a size; write it as 500M or 10G")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def format_bytes(size: float) -> str:
    """A number of bytes in words: ``512 B``, ``1.5 MiB``."""
    power = max(0, min((int(size).bit_length() - 1) // 10, 4))
    unit = ("B", "KiB", "MiB", "GiB", "TiB")[power]
    return f"{size / 1024**power:.{min(power, 1)}f} {unit}"
