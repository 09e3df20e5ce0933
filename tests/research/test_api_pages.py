"""docs/api/ says what the docstrings say."""

from __future__ import annotations

import pytest

pytest.importorskip("griffe2md")

from api_pages import FOLDER, render_pages


@pytest.mark.slow
def test_the_committed_pages_are_current() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert render_pages() == committed
