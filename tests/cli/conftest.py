from __future__ import annotations

import pytest

from compatbench.cli import output


@pytest.fixture(autouse=True)
def _consoles_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the width anew: a console keeps the width that it found when it was created."""
    for console in (output.console, output.error_console):
        monkeypatch.setattr(console, "_width", None)
