"""Whole fits beside the authors' code; skipped where its checkouts are not there.

python benchmark/authors/clone.py FOLDER
COMPATBENCH_AUTHORS=FOLDER python -m pytest benchmark/authors
python benchmark/pages.py authors

A run of every test writes ``fits.csv``, from which ``docs/authors.md`` is made.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from checkout import Checkout
from torch import Tensor
from whole_fits import Compare, OurFit, difference

# Trees of data sets as the readers' tests write them.
sys.path.append(str(Path(__file__).parents[2] / "tests"))

FOLDER = "COMPATBENCH_AUTHORS"
CLOSE = 1e-10  # largest relative difference of a whole fit in double precision
COLUMNS = ("method", "repository", "steps", "moved", "parameters", "logits")
FITS = Path(__file__).with_name("fits.csv")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "authors(repository): beside the code of a checkout")
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPATBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _draws_in_double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """The repository that the test's marker names: ``@pytest.mark.authors("OWNER/NAME")``."""
    return request.node.get_closest_marker("authors").args[0]


@pytest.fixture
def checkout(repository: str, tmp_path: Path) -> Checkout:
    """Its checkout; the test is skipped where it is not there."""
    folder = os.environ.get(FOLDER)
    if not folder or not (Path(folder) / repository).is_dir():
        pytest.skip(f"no checkout of {repository} in ${FOLDER}")
    return Checkout(folder, repository, tmp_path)


@pytest.fixture
def compare(repository: str, record_property: Callable[[str, object], None]) -> Compare:
    """Compares two whole fits, and gives the table its row."""

    def compare(
        ours: OurFit,
        theirs: Mapping[str, Tensor],
        logits: Tensor,
        *,
        name: str = "",
        parameters: Mapping[str, Tensor] | None = None,
        steps: int | None = None,
    ) -> None:
        """Fails where parameters or logits differ, or where the fit moved nothing.

        Args:
            theirs: the authors' parameters by our names.
            logits: theirs, of the queries.
            name: of the row; by default the method's.
            parameters: ours, where they have to be brought into another form.
            steps: of the fit, where the harness does not batch them.
        """
        mine = ours.module.trained if parameters is None else parameters
        gaps = difference(mine, theirs), difference({"": ours.logits}, {"": logits})
        moved = float("nan")
        if (start := ours.start) is not None:
            fitted = ours.module
            moved = min(difference({"": start[n]}, {"": fitted[n]}) for n in start.trained)
        steps = ours.steps if steps is None else steps
        row = [name or ours.method.card.name, repository, steps, moved, *gaps]
        record_property("whole_fit", row)
        assert not moved < 1e-6, "a parameter has not moved"
        assert max(gaps) < CLOSE, f"parameters differ by {gaps[0]:.1e}, logits by {gaps[1]:.1e}"

    return compare


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table of the fits that were compared; a run of all of them keeps it."""
    reports = [
        report for of in ("passed", "failed") for report in terminalreporter.stats.get(of, ())
    ]
    properties = [pair for report in reports for pair in getattr(report, "user_properties", ())]
    rows = sorted(value for name, value in properties if name == "whole_fit")
    if not rows:
        return
    fits = pd.DataFrame(rows, columns=COLUMNS)
    terminalreporter.section("whole fits beside the authors' code: largest relative differences")
    terminalreporter.write_line(
        fits.to_string(index=False, na_rep="-", float_format="{:.1e}".format)
    )
    whole = [Path(path).resolve() for path in config.args] == [FITS.parent]
    if whole and not {"failed", "error", "skipped"} & terminalreporter.stats.keys():
        fits.to_csv(FITS, index=False, float_format="%.1e", lineterminator="\n")
        terminalreporter.write_line(f"wrote {FITS}")
