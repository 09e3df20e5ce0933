"""Compare whole fits with those of the authors' code. A test is skipped without its checkout.

python benchmark/authors/clone.py FOLDER
COMPATBENCH_AUTHORS=FOLDER python -m pytest benchmark/authors tests/transfers
python benchmark/pages.py authors

The second command writes ``fits.csv``, from which ``docs/authors.md`` is made. A fit that was not
run keeps its row.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch

# The programs use published recipes, and the trees of data sets that tests write.
TESTS = Path(__file__).parents[2] / "tests"
sys.path += [str(Path(__file__).parents[1] / "research"), str(TESTS)]

if TYPE_CHECKING:
    from checkout import Checkout

FOLDER = os.environ.get("COMPATBENCH_AUTHORS", "")
COLUMNS = ("method", "repository", "steps", "moved", "parameters", "logits")
FITS = Path(__file__).with_name("fits.csv")
WHOLE = {FITS.parent, TESTS / "transfers"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "authors(repository): compares with the code of a checkout")
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache_and_draws_in_double(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setenv("COMPATBENCH_CACHE", str(tmp_path / "cache"))
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def checkout(
    request: pytest.FixtureRequest, tmp_path: Path, record_property: Callable[[str, object], None]
) -> Checkout:
    """Return the checkout that the test's marker names, ``@pytest.mark.authors("OWNER/NAME")``.

    The test is skipped if there is none.
    """
    from checkout import Checkout  # which needs the paths above

    repository = request.node.get_closest_marker("authors").args[0]
    if not FOLDER or not (Path(FOLDER) / repository).is_dir():
        pytest.skip(f"no checkout of {repository} in $COMPATBENCH_AUTHORS")
    return Checkout(FOLDER, repository, tmp_path, record_property)


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Print a table of the compared fits. A run of both folders also writes their rows."""
    rows = []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, value in getattr(report, "user_properties", ()):
                if name == "whole_fit":
                    rows.append(value)
    rows.sort()
    if not rows or hasattr(config, "workerinput"):  # a worker of xdist has a part of them
        return
    from authors_page import list_versions  # which loads every method

    fits = pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(COLUMNS[3:], float))
    fits["version"] = fits["method"].str.partition(",")[0].map(list_versions())
    terminalreporter.section("whole fits beside the authors' code: largest relative differences")
    terminalreporter.write_line(
        fits.to_string(columns=COLUMNS, index=False, na_rep="-", float_format="{:.1e}".format)
    )
    if {Path(path).resolve() for path in config.args} == WHOLE and exitstatus == 0:
        before = pd.read_csv(FITS)
        kept = before[~before["method"].isin(fits["method"])]
        fits = pd.concat([kept, fits]).sort_values("method")
        fits.to_csv(FITS, index=False, float_format="%.1e", lineterminator="\n")
        terminalreporter.write_line(f"wrote {FITS}")
