"""Large stores and leaderboards: the cost of commands for each finished cell and method."""

from __future__ import annotations

import gc
import json
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

import compatbench as api
from compatbench.engine.cell import CellRecord
from compatbench.engine.plan import make_plan
from compatbench.engine.request import make_request
from compatbench.engine.store import unseal
from compatbench.extras.doctor.stores import list_runs
from compatbench.method.registry import builtin_methods

SPEED = Path(__file__).parents[2] / "benchmark" / "speed"
sys.path.append(str(SPEED))

from commands import LIMITS, count_seeds, make_cells  # noqa: E402

pytestmark = pytest.mark.slow


def test_plan_list_and_audit_read_a_record_once_or_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then their time grows as the store does. The page on speed has the time of 20,000."""
    builtin_methods.cache_clear()  # without methods that other tests have added
    path, cells = make_cells(tmp_path, 1, "tasks: [mini-weather, mini-food]")
    suite = str(path)
    reads = Counter[str]()
    assert cells > 100

    def read(content: bytes) -> CellRecord:
        record = unseal(content)
        reads[record.key] += 1
        return record

    monkeypatch.setattr("compatbench.engine.store.unseal", read)
    audits = []
    for max_reads, command in (
        (1, lambda: make_plan(make_request(suite, out=tmp_path)).to_do),
        (1, lambda: list_runs(out=tmp_path)),
        (2, lambda: audits.append(api.audit_results(tmp_path, [suite], cells=0))),
    ):
        reads.clear()
        command()
        assert len(reads) == cells, reads
        assert max(reads.values()) <= max_reads, reads
    assert audits[0].findings == []
    tracemalloc.start()
    again = make_plan(make_request(suite, out=tmp_path))
    assert again.to_do == []
    gc.collect()  # garbage is not held
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held / cells < 5_000  # bytes, most of them not of cells; a record has ten times as many


def test_stores_of_the_speed_page_have_about_as_many_cells_as_intended() -> None:
    builtin_methods.cache_clear()
    seeds = range(1, count_seeds(1_000) + 1)
    cells = len(make_plan(make_request("mini", seeds=[*seeds])).cells)
    assert 500 < cells < 1_100


def test_the_figures_of_the_speed_page_keep_what_is_promised() -> None:
    made = json.loads((SPEED / "commands.json").read_text())
    assert LIMITS.keys() <= made.keys()
    for part, limits in LIMITS.items():
        found = made[part]["commands"]
        assert list(found) == list(limits)
        for name, times in limits.items():
            limit = times * found[name]["load_seconds"]
            # The page shows what is above its limit in bold; twice the limit is a defect.
            assert found[name]["cpu_seconds"] < 2 * limit, name
