"""Changes every byte of a sample of stored files, one at a time, and reads them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compatbench.data.cache_files import read_entry
from compatbench.engine.predict import read_predictions
from compatbench.engine.store import unseal
from compatbench.errors import CompatbenchError
from compatbench.method import load_module

# What a parser may pass over: white space, and letters of numbers.
SLY = b"\t\n\r 0Ee+-"


def run(out: Path, cache: Path, files: int, values: int) -> dict[str, Any]:
    """Tries the smallest files of each kind.

    Args:
        files: of each kind.
        values: of 255, how many others each byte of a record takes, and each byte of another
            file's header, which with 0 take two; a tensor's bytes, which are all alike, take one.
    """
    begin = time.monotonic()
    kinds = {
        "records": (
            out / "runs" / "cells",
            ".json",
            _reads(lambda path: unseal(path.read_bytes()), ValueError),
        ),
        "modules": (out / "runs" / "modules", ".safetensors", _reads(load_module)),
        "predictions": (
            out / "runs" / "predictions",
            ".safetensors",
            _reads(lambda path: read_predictions(path, path.stem)),
        ),
        "features": (cache, ".safetensors", lambda path: read_entry(path) is not None),
    }
    report: dict[str, Any] = {}
    for kind, (folder, suffix, reads) in kinds.items():
        found = sorted(folder.rglob(f"*{suffix}"), key=lambda path: (path.stat().st_size, path))
        tried, unnoticed, size = 0, 0, 0
        for path in found[:files]:
            assert reads(path)
            content = path.read_bytes()
            size += len(content)
            tensors = len(content)
            if kind != "records":
                tensors = 8 + int.from_bytes(content[:8], "little")
            for place, byte in enumerate(content):
                others = {byte ^ 1 << place % 8}
                if place < tensors:
                    others = _others(byte, values) if values else {SLY[place % len(SLY)]} | others
                    others -= {byte}
                for value in others:
                    tried += 1
                    unnoticed += _try(path, content, place, value, reads)
            path.write_bytes(content)
        report[kind] = {
            "files": len(found[:files]),
            "bytes": size,
            "changes": tried,
            "unnoticed": unnoticed,
        }
    return {**report, "seconds": round(time.monotonic() - begin)}


def _others(byte: int, values: int) -> set[int]:
    """Other values of a byte, among them those that a parser might pass over."""
    return {(byte + 1 + i * 255 // values) % 256 for i in range(values)} | set(SLY)


def _try(path: Path, content: bytes, place: int, value: int, reads: Callable[[Path], bool]) -> bool:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes([value]))
    try:
        return reads(path)
    finally:
        with path.open("r+b") as file:
            file.seek(place)
            file.write(content[place : place + 1])


def _reads(
    read: Callable[[Path], object], refusal: type[Exception] = CompatbenchError
) -> Callable[[Path], bool]:
    def reads(path: Path) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read(path)
            except refusal:
                return False
        return True

    return reads
