"""Snapshots of pages: files beside these tests, which COMPATBENCH_SNAPSHOTS=write writes anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

SNAPSHOTS = Path(__file__).parent / "snapshots"


@pytest.fixture(scope="session")
def same_as_before() -> Callable[[str, str], None]:
    """Compares a text with the snapshot of a name."""

    def compare(name: str, text: str) -> None:
        path = SNAPSHOTS / name
        if os.environ.get("COMPATBENCH_SNAPSHOTS") == "write":
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return compare
