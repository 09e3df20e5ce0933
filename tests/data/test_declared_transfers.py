"""The list of the needs of transfers equals what their classes declare."""

from __future__ import annotations

import subprocess
import sys

import pytest

from compatbench.data.declared_transfers import declared_needs, listed_transfers
from compatbench.method.registry import builtin_transfers, find_transfer


@pytest.mark.parametrize("name", builtin_transfers().names())
def test_declared_needs_equal_those_of_the_class(name: str) -> None:
    cls = builtin_transfers().get(name)
    number = ["4"] if "shots" in cls.Config.model_fields else []
    for settings in ([], list(cls.card.settings)[:1]):
        label = "+".join([name, *settings, *number])
        transfer = find_transfer(label)
        needs = declared_needs(label)
        assert needs is not None
        assert needs == (transfer.card.access, getattr(transfer.config, "shots", 0))


def test_labels_without_a_file_have_no_declared_needs() -> None:
    """Only their classes know them."""
    for label in ("nothing", "copied+raw", "words+4", "retrained", "retrained+x"):
        assert declared_needs(label) is None


@pytest.mark.slow
def test_pages_are_made_without_pytorch_and_scipy_stats() -> None:
    code = (
        "import sys; from compatbench.tables.pages.leaderboard import render_pages as render;"
        "from compatbench.tables.suite_page import published_pages as read;"
        "from compatbench.results.result_files import ResultFiles as Files;"
        "from pathlib import Path; render(Path('.'), read(Files(Path('.'))));"
        "import compatbench.tables.terminal_ranking;"
        "print(*{'torch', 'open_clip', 'scipy.stats', 'vl_convert'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_list_of_needs_contains_every_transfer() -> None:
    settings = {}
    for name, cls in builtin_transfers().classes.items():
        settings[name] = tuple(cls.card.settings)
    listed = {name: entry.settings for name, entry in listed_transfers().items()}
    assert listed == settings
