"""Results have the same bytes, however the work is divided."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import output_of
from filelock import FileLock
from planning import cells_of

from compatbench.data.cards import suite_cards
from compatbench.engine.compute import Compute
from compatbench.engine.execute.dispatcher import Job
from compatbench.engine.execute.events import Event
from compatbench.engine.execute.run_plan import run_here
from compatbench.engine.worker import make_worker
from compatbench.results.result_files import ResultFiles
from compatbench.tables.pages.leaderboard import render_pages
from compatbench.tables.suite_page import published_pages

from .running import write_suite

METHODS = "zeroshot,gda,taskres,simpleshot"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the smoke suite with a page and three seeds."""
    folder = tmp_path_factory.mktemp("suite")
    return write_suite(folder, "mine", publish=True, seeds=[1, 2, 3])


@pytest.fixture(scope="module")
def whole(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of one undisturbed run."""
    out = tmp_path_factory.mktemp("whole")
    command("run", suite, out)
    return out


def command(name: str, suite: Path, out: Path, *options: str) -> str:
    """Return the output of a command that runs in this process, where torch is loaded."""
    arguments = [name, "--suite", suite, "--methods", METHODS, "--out", out, *options]
    if name == "run":
        arguments += ["--jobs", "1"]
    return output_of(*arguments)


def published(suite: Path, out: Path, times: Path) -> dict[str, str]:
    """Return the files of results, and their leaderboard with the times of another run."""
    if out != times:
        for path in (times / "results").rglob("costs.csv"):
            shutil.copy(path, out / path.relative_to(times))
    pages = render_pages(out, published_pages(ResultFiles(out), suite_cards.read(str(suite))))
    files = {}
    for path in (out / "results").rglob("*.*"):
        files[str(path.relative_to(out))] = path.read_text()
    for path, text in pages.items():
        files[str(path.relative_to(out))] = text
    return files


def count_records(out: Path) -> int:
    return len(list(out.rglob("cells/*/*.json")))


@pytest.mark.slow
@pytest.mark.parametrize("one_folder", [True, False])
def test_shards_add_up_in_one_folder_or_copied_into_one(
    suite: Path, whole: Path, tmp_path: Path, one_folder: bool
) -> None:
    joined = tmp_path / "joined"
    counts = []
    for index in (2, 1):
        out = joined if one_folder else tmp_path / str(index)
        out.mkdir(exist_ok=True)
        shard = ["--shard", f"{index}/2"]
        before = count_records(out)
        plan = command("plan", suite, out, *shard).splitlines()
        [line] = [line for line in plan if "in this shard" in line]
        output = command("run", suite, out, *shard)
        assert "of 10 in this shard" in output
        counts.append(count_records(out) - before)
        # A plan shows the same part.
        assert int(line.split(": ")[1].split(" cell")[0]) == counts[-1]
        if not one_folder:
            shutil.copytree(out / "runs", joined / "runs", dirs_exist_ok=True)
    assert sum(counts) == 10
    assert min(counts) > 0
    assert "all done" in command("run", suite, joined)
    assert published(suite, joined, whole) == published(suite, whole, whole)


@pytest.fixture
def held(cache: Path, tmp_path: Path) -> SimpleNamespace:
    """Return a job of one cell that another run holds, with what the other run can do."""
    [cell] = cells_of("smoke", ["gda"])
    worker = make_worker(tmp_path / "runs", cache, Compute())
    store = worker.store
    store.claim_path(cell.key).parent.mkdir(parents=True)
    lock = FileLock(store.claim_path(cell.key))
    lock.acquire()

    def finish() -> None:
        lock.release()
        assert worker.run(cell).errors == []
        assert store.is_done(cell, store.read(cell.key))

    job = Job([cell], store.folder, cache, Compute(jobs=1))
    return SimpleNamespace(job=job, cell=cell, store=store, lock=lock, finish=finish)


@pytest.mark.slow
def test_a_run_waits_for_a_cell_that_another_run_holds(held: SimpleNamespace) -> None:
    """The run tries the cell again once it is free, and finds it finished."""
    seen: list[str] = []

    def on_event(event: Event) -> None:
        seen.append(event.kind)
        if seen == ["waiting"]:
            held.finish()

    run_here(held.job, on_event)
    assert seen == ["waiting", "finished"]


@pytest.mark.slow
@pytest.mark.parametrize("fails", [True, False])
def test_a_cell_of_a_run_that_died_is_run_unless_its_failure_is_recorded(
    held: SimpleNamespace, fails: bool
) -> None:
    seen: list[tuple[str, str]] = []

    def on_event(event: Event) -> None:
        seen.append((event.kind, event.error))
        if event.kind == "waiting":
            if fails:
                held.store.write_failure(held.cell, "ValueError: no")
            held.lock.release()

    run_here(held.job, on_event)
    last = ("finished", "ValueError: no" if fails else "")
    assert (seen[0], seen[-1]) == (("waiting", ""), last)
    assert (("started", "") in seen) != fails
