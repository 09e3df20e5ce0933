"""What the harness itself costs: image features, an empty cell, and many finished cells."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import METHODS  # any that learn would do: nothing is fitted
from commands import finish
from rich.console import Console
from workload import time_best

from compatbench.backbone import load_backbone
from compatbench.data.cache_files import list_entries
from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import load_task
from compatbench.engine.matrix import select_matrix
from compatbench.engine.plan import Plan, plan_cells
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker
from compatbench.errors import CompatbenchWarning
from compatbench.method.registry import builtin_methods
from compatbench.results.collect import collect_results
from compatbench.tables.suite_page import read_suite_page
from compatbench.tables.terminal_ranking import print_ranking

pytestmark = pytest.mark.benchmark(timer=time.process_time, disable_gc=True)

MANY = 10_000


@pytest.mark.parametrize("state", ["cold", "warm", "damaged"])
def test_feature_cache(benchmark: Any, tmp_path: Path, state: str) -> None:
    """Features of a test set: computed, read back, and computed again after a flipped byte."""
    backbone, task = load_backbone("mini-clip"), load_task("mini-objects")
    samples = list(task.split("test"))

    def read() -> Any:
        return FeatureCache(tmp_path).features(backbone, task, samples)

    def damage() -> None:
        [entry] = list_entries(tmp_path)
        content = entry.path.read_bytes()
        entry.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    def remove() -> None:
        for entry in list_entries(tmp_path):
            entry.path.unlink()

    expected = read()
    setups = {"cold": remove, "warm": lambda: None, "damaged": damage}
    warned = pytest.warns(CompatbenchWarning, match="damaged")
    with warned if state == "damaged" else nullcontext():
        features = benchmark.pedantic(read, setup=setups[state], rounds=5)
    assert torch.equal(features, expected)
    benchmark.extra_info.update(images=len(samples), state=state)


def test_empty_cell(benchmark: Any, tmp_path: Path) -> None:
    """A cell of the zero-shot method, less what attaching and classifying take: no fit at all."""
    suite = suite_cards.read("mini")
    cells = plan_cells(suite, builtin_methods(), ["zeroshot"], tasks="mini-objects")
    worker = Worker(RunStore(tmp_path), FeatureCache(tmp_path))
    worker.run(cells[0])  # loads both backbones, and encodes the images

    def clear() -> None:
        for path in tmp_path.joinpath("cells").rglob("*.json"):
            path.unlink()
        for path in tmp_path.joinpath("modules").rglob("*.safetensors"):
            path.unlink()

    record = benchmark.pedantic(lambda: worker.run(cells[0]), setup=clear, rounds=20)
    assert record.status == "ok"
    assert benchmark.stats.stats.min < 0.1


def make_suite(cells: int, methods: int) -> SuiteCard:
    suite = suite_cards.read("mini")
    seeds = tuple(range(1, cells // (methods * len(suite.tasks)) + 1))
    changes = {"name": "speed", "publish": False, "variants": (), "seeds": seeds}
    return suite.model_copy(update=changes)


def run_all(folder: Path, cells: int, methods: int) -> dict[str, float]:
    """CPU seconds to plan, store and report so many finished cells."""
    suite, registry, names = make_suite(cells, methods), builtin_methods(), METHODS[:methods]
    store, seconds = RunStore(folder / "runs"), {}

    def timed(what: str, function: Callable[[], Any]) -> Any:
        seconds[what], result = time_best(function, rounds=1)
        return result

    planned = timed("plan", lambda: plan_cells(suite, registry, names))
    assert len(planned) == cells
    timed("store", lambda: [finish(store, cell) for cell in planned])
    states = timed("read", lambda: [store.read_state(cell) for cell in planned])
    assert all(done for done, *_ in states)

    def report() -> None:
        found_plan = Plan(select_matrix(suite, registry, names), tuple(planned), store)
        collect_results(found_plan, folder / "results" / suite.name)
        with (folder / "table.txt").open("w") as file:
            print_ranking(Console(file=file), read_suite_page(suite, folder))

    timed("report", report)
    return seconds


@pytest.mark.parametrize(
    ("cells", "methods"), [(2_000, 10), (4_000, 10), (MANY, 10), (MANY, 5), (MANY, 2)]
)
def test_finished_cells(benchmark: Any, tmp_path: Path, cells: int, methods: int) -> None:
    run_all(tmp_path / "warm", 80, 2)  # cards, tasks and code are read once
    parts = benchmark.pedantic(lambda: run_all(tmp_path / "all", cells, methods), rounds=1)
    total = sum(parts.values())
    benchmark.extra_info.update(cells=cells, methods=methods, cpu_seconds=total, parts=parts)
    assert total < 5
