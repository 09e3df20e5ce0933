"""Large stores and leaderboards: what commands take for each finished cell, and each method."""

from __future__ import annotations

import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import compatbench as api
from compatbench.data.cards import suite_cards
from compatbench.engine.plan import make_plan
from compatbench.engine.store import RunStore
from compatbench.engine.store_check import find_waste
from compatbench.files.project_folders import TASKS_VARIABLE
from compatbench.method.registry import builtin_methods
from compatbench.results import result_files, rows

SPEED = Path(__file__).parents[2] / "benchmark" / "speed"
sys.path.append(str(SPEED))

from many import BARS, METHODS, make_board, make_cells  # noqa: E402

pytestmark = pytest.mark.slow


def cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def test_plan_waste_and_audit_of_many_cells_cost_little_more_than_their_records(
    tmp_path: Path,
) -> None:
    builtin_methods.cache_clear()  # without methods that other tests have added
    suite = str(make_cells(tmp_path, 1_000))

    def make() -> object:
        return make_plan(suite, out=tmp_path).to_do

    plan, store = make_plan(suite, out=tmp_path), RunStore(tmp_path / "runs")
    keys = [cell.key for cell in plan.cells]
    assert len(keys) > 800
    read = cpu_seconds(lambda: [store.read(key) for key in keys])
    # Twice as much on a quiet machine.
    assert cpu_seconds(make) < 5 * read + 1
    suites = [suite_cards.read("mini")]
    assert cpu_seconds(lambda: find_waste(store, suites, builtin_methods())) < 10 * read + 2
    found = []
    audit = cpu_seconds(lambda: found.append(api.audit_results(tmp_path, [suite], cells=0)))
    assert found[0].findings == []
    # A twentieth of the cells, twice what is promised.
    assert audit < 2 * BARS["audit --cells 0"][0] / 20 + 10
    tracemalloc.start()
    again = make_plan(suite, out=tmp_path)
    assert again.to_do == []
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held / len(keys) < 2_000  # bytes; a record has ten times as many


def test_a_leaderboard_of_many_methods_reads_each_file_once_and_draws_only_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = METHODS // 8
    make_board(tmp_path, methods, seeds=1)
    monkeypatch.setenv(TASKS_VARIABLE, str(tmp_path / "tasks"))
    read, parse = [], rows.read_csv

    def read_once(path: Path, model: Any) -> Any:
        read.append(path)
        return parse(path, model)

    monkeypatch.setattr(result_files, "read_csv", read_once)
    assert cpu_seconds(lambda: api.leaderboard(tmp_path)) < 2 * BARS["leaderboard"][0] / 8 + 2
    assert len(read) == len(set(read)) == 2 * methods
    page = (tmp_path / "results" / "figures" / "board-scatter-1.svg").read_text()
    assert f"16 shots, the 50 best by each transfer and zero-shot, out of {methods}" in page


def test_the_figures_of_the_speed_page_keep_what_is_promised() -> None:
    found = json.loads((SPEED / "many.json").read_text())["commands"]
    assert list(found) == list(BARS)
    for name, (seconds, megabytes) in BARS.items():
        assert found[name]["cpu_seconds"] < 2 * seconds  # of a machine that others use, too
        assert megabytes is None or found[name]["mb"] < megabytes
