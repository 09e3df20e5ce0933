"""Large stores: what a plan and the search for waste take for each finished cell."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from compatbench.data.cards import suite_cards
from compatbench.engine.cell import Record, describe_cell
from compatbench.engine.keys import data_key
from compatbench.engine.plan import make_plan
from compatbench.engine.store import RunStore
from compatbench.engine.store_check import find_waste
from compatbench.method.registry import builtin_methods

SEEDS = tuple(range(1, 31))


def cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


@pytest.mark.slow
def test_plan_and_waste_of_many_finished_cells_cost_little_more_than_their_records(
    tmp_path: Path,
) -> None:
    suite = suite_cards.read("mini").model_copy(update={"seeds": SEEDS})
    methods = ["taskres", "gda", "lfa", "simpleshot", "coop", "tcp", "zs_lp", "clap"]

    def make() -> object:
        return make_plan(suite, methods, out=tmp_path)

    plan, store = make_plan(suite, methods, out=tmp_path), RunStore(tmp_path / "runs")
    for cell in (item.cell for item in plan.planned):
        counts = {"status": "ok", "correct": 50, "total": 100, "zero_shot_correct": 40}
        records = [
            Record(backbone=backbone, test_set=test, data=data_key(backbone, test), **counts)
            for backbone in cell.backbones
            for test in cell.test_sets
        ]
        store.write(describe_cell(cell, "ok", records=tuple(records)))
    keys = [item.cell.key for item in plan.planned]
    assert len(keys) > 1_900
    read = cpu_seconds(lambda: [store.read(key) for key in keys])
    # Twice as much on a quiet machine.
    assert cpu_seconds(make) < 5 * read
    suites = [suite_cards.read("mini")]
    assert cpu_seconds(lambda: find_waste(store, suites, builtin_methods())) < 10 * read + 2
    tracemalloc.start()
    again = make_plan(suite, methods, out=tmp_path)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert all(item.done for item in again.planned)
    assert held / len(keys) < 2_000  # bytes; a record has ten times as many
