"""What an audit says of honest results, and of those of another machine."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from honest_results import Workplace

from compatbench.engine.cell import Cell, CellRecord
from compatbench.engine.worker import Worker
from compatbench.extras.audit import rerun
from compatbench.extras.audit.rerun import run_timed

from .conftest import set_field


def test_honest_results_are_found_to_be_honest(forged: Workplace) -> None:
    result = forged.audit()
    assert result.exit_code == 0, result.output
    # Zero-shot has one seed, the others two.
    assert "suites: 1, method files: 4, rows: 18; cells run again: 0 (--seed 7); findings: 0" in (
        result.output
    )


def test_what_is_found_is_printed_with_its_place(forged: Workplace) -> None:
    forged.edit("taskres.csv", set_field(3, "correct", lambda v: int(v) + 3))
    result = forged.audit("--no-zero-shot")
    assert result.exit_code == 1
    assert re.search(r"(?m)^wrong .*taskres.csv:3: 'negative_flips': .*, found", result.output)


def one_more_right(place: Workplace, line: int) -> None:
    """On the target, and the flips still fit."""
    place.edit("taskres.csv", set_field(line, "correct", lambda v: int(v) + 1))
    place.edit("taskres.csv", set_field(line, "positive_flips", lambda v: int(v) + 1))


@pytest.mark.slow
def test_a_cost_far_below_what_it_takes_here_is_named(
    forged: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compatbench.extras.audit.rerun.LEAST_SECONDS", 0.01)
    forged.edit("coop.cost.csv", set_field(None, "fit_seconds", lambda _: 0.0))
    forged.publish()
    result = forged.audit("--no-zero-shot", cells=9)
    found = re.findall(r"(?m)^wrong .*: 'fit_seconds': .*$", result.output)
    assert len(found) == 2, result.output  # two seeds, and no other cell
    assert all(re.search(r"coop.cost.csv:\d: .*, found 0$", line) for line in found)


@pytest.mark.slow
def test_what_is_slow_only_at_first_is_no_finding(
    forged: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def slow_at_first(cell: Cell, worker: Worker) -> tuple[CellRecord, pd.DataFrame]:
        record, costs = run_timed(cell, worker)
        calls.append(cell)
        return record, costs + 1000 * (len(calls) == 1)

    monkeypatch.setattr(rerun, "run_timed", slow_at_first)
    result = forged.audit("--no-zero-shot", cells=1)
    assert result.exit_code == 0, result.output
    assert len(calls) == 2


@pytest.mark.slow
def test_cells_run_again_give_what_is_stored(forged: Workplace) -> None:
    result = forged.audit(cells=9)
    assert result.exit_code == 0, result.output
    assert "cells run again: 9 (--seed 7); findings: 0" in result.output
    assert "made with the versions and processor of this machine: no tolerance" in result.output
    assert "runs again taskres (words) · mini-weather" in result.output


@pytest.mark.slow
def test_another_machines_results_are_allowed_to_round_otherwise(forged: Workplace) -> None:
    for name in ("zeroshot", "taskres", "simpleshot", "coop"):
        forged.edit(
            f"{name}.json", lambda text: text.replace('"torch": [\n   "', '"torch": [\n   "0.1')
        )
    one_more_right(forged, 3)
    forged.publish()
    result = forged.audit(cells=9)
    assert result.exit_code == 0, result.output
    assert (
        "made with another torch, by its file: counts may differ both ways, by 0.1% of"
        in result.output
    )
    strict = forged.audit("--tolerance", "0", cells=9)
    assert strict.exit_code == 1
    assert "taskres.csv:3: 'correct': the cell was run again" in strict.output


@pytest.mark.slow
def test_the_sample_is_told_and_can_be_drawn_again(forged: Workplace) -> None:
    options = ("--no-zero-shot", "--json")
    found = json.loads(forged.audit(*options, cells=2).output)
    assert (found["findings"], found["seed"]) == ([], 7)
    assert [one["suites"] for one in found["sample"]] == [["tiny"]] * 2
    [draw] = found["draws"]
    assert (draw["run"], draw["of"], draw["forged"]) == (2, 9, 0.1)
    assert draw["power"] == pytest.approx(2 / 9)  # that one cell of nine is among two
    assert json.loads(forged.audit(*options, cells=2).output) == found
