"""Sizes in bytes, as people write and read them; units are powers of 1024."""

from __future__ import annotations

import re

from compatbench.errors import CompatbenchError


def parse_bytes(text: str) -> int:
    """Return the bytes of a size such as ``500M`` or ``1.5G``.

    Raises:
        CompatbenchError: the text is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise CompatbenchError(f"'{text}' is not a size; write it as 500M or 10G")
    number = float(match[1])
    unit = match[2].upper() or " "
    power = " KMGT".index(unit)
    return int(number * 1024**power)


def format_bytes(size: float) -> str:
    """Return a number of bytes in words: ``512 B``, ``1.5 MiB``."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = (int(size).bit_length() - 1) // 10
    power = max(0, min(power, len(units) - 1))
    decimals = min(power, 1)  # bytes are whole
    return f"{size / 1024**power:.{decimals}f} {units[power]}"
