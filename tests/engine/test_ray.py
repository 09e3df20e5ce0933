"""Cells on a cluster of three nodes, which are processes here, with GPUs that are numbers only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from command_line import output_in

from compatbench.data.cards import suite_cards
from compatbench.engine.cell import Cell, CellRecord
from compatbench.engine.compute import Compute
from compatbench.engine.execute.events import Event, OnEvent
from compatbench.engine.plan import plan_cells
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.method.registry import builtin_methods

from .running import wait_until, write_methods

pytest.importorskip("ray", reason="the extra 'ray' is not installed")

from ray.cluster_utils import Cluster

from compatbench.engine.execute import on_ray
from compatbench.engine.execute.local import open_job

pytestmark = pytest.mark.slow

# A node whose process is gone is lost after some seconds, not after a quarter of a minute; and no
# worker is started before it has a cell.
SYSTEM = {"health_check_period_ms": 500, "health_check_failure_threshold": 5}
SYSTEM |= {"prestart_worker_first_driver": False, "enable_worker_prestart": False}

# What the methods of these tests do in their fit; FOLDER is the test's own.
HEAD = """
import os, time
from pathlib import Path
import ray

FOLDER = Path(__file__).parent

def wait_for(count, pattern):
    deadline = time.monotonic() + 200
    while len(list(FOLDER.glob(pattern))) < count and time.monotonic() < deadline:
        time.sleep(0.02)

def note(name):
    node = ray.get_runtime_context().get_node_id()
    device = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    with open(FOLDER / f"{name}.{os.getpid()}.note", "w") as file:
        file.write(f"{node} {device} {os.environ.get('OMP_NUM_THREADS')}")
"""

Plugin = Callable[..., list[Cell]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without cores, and two nodes that together hold three GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        patch.setenv("TMPDIR", "/tmp")  # in it are sockets, whose paths may not be long
        yield from make_cluster()


def make_cluster() -> Iterator[Cluster]:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": SYSTEM},
    )
    cluster.add_node(num_cpus=2, num_gpus=1, include_dashboard=False)
    cluster.add_node(num_cpus=4, num_gpus=2, include_dashboard=False)
    yield cluster
    cluster.shutdown()


@dataclass(frozen=True)
class Settings:
    """Where and how the cells of a test are run."""

    store: Path
    cache: Path
    compute: Compute

    def run(self, cells: list[Cell], on_event: OnEvent) -> None:
        with open_job(cells, self.store, self.cache, self.compute) as job:
            on_ray.run_on_ray(job, on_event, lambda _: None)


@pytest.fixture
def settings(tmp_path: Path, cache: Path, cluster: Cluster) -> Settings:
    """Workers of half a GPU each."""
    compute = Compute("ray", "cpu", address=cluster.address, gpus_per_cell=0.5)
    return Settings(tmp_path / "runs", cache, compute)


@pytest.fixture
def make_cells(tmp_path: Path) -> Iterator[Plugin]:
    """Plans smoke cells of methods whose fit is given here, one cell for each seed."""
    registry = builtin_methods()
    before = dict(registry.classes)

    def make(seeds: int = 1, **fits: str) -> list[Cell]:
        plugin = tmp_path / f"plugin_{'_'.join(fits)}.py"
        noted = {name: f"note('{name}'); {fit}" for name, fit in fits.items()}
        write_methods(plugin, HEAD, **noted)
        registry.add_file(plugin)
        suite = suite_cards.read("smoke")
        return plan_cells(suite, registry, list(fits), seeds=range(1, seeds + 1))

    yield make
    registry.classes.clear()
    registry.classes.update(before)


def run(cells: list[Cell], settings: Settings, **compute: Any) -> list[Event]:
    events: list[Event] = []
    settings = replace(settings, compute=replace(settings.compute, **compute))
    settings.run(cells, events.append)
    return events


def notes(folder: Path, name: str) -> list[list[str]]:
    """Node, devices and threads of every process that noted something."""
    return [path.read_text().split(" ") for path in sorted(folder.glob(f"{name}.*.note"))]


def is_running(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def record_of(cell: Cell, settings: Settings) -> CellRecord:
    return RunStore(settings.store).read(cell.key)  # type: ignore[return-value]


def test_results_are_those_of_the_local_run_byte_for_byte(cluster: Cluster, tmp_path: Path) -> None:
    command = ["run", "--suite", "smoke", "--methods", "coop,zeroshot"]
    cluster_options = ["--executor", "ray", "--address", cluster.address, "--gpus-per-cell", "0.5"]
    found = {}
    for name, options in (("local", ["--jobs", "1"]), ("ray", cluster_options)):
        out = tmp_path / name
        out.mkdir()
        said = output_in(out, *command, "--device", "cpu", *options)
        paths = [path for path in out.glob("results/smoke/*") if ".cost" not in path.name]
        found[name] = {path.name: path.read_bytes() for path in paths}
    assert "with 6 workers" in said
    assert "2 of 2 cells" in said
    assert len(found["local"]) == 4
    assert found["ray"] == found["local"]
    assert not list(tmp_path.rglob(".shared*"))


def test_death_is_retried_and_an_error_or_the_end_of_its_time_is_not(
    settings: Settings, make_cells: Plugin, tmp_path: Path
) -> None:
    cells = make_cells(
        once="len(list(FOLDER.glob('once.*.note'))) > 1 or os._exit(3)",
        ever="os.kill(os.getpid(), 9)",
        error="raise RuntimeError('no luck today')",
        hangs="time.sleep(600)",
    )
    events = run(cells, settings, timeout=5, retry={"killed": 1})
    died = "WorkerDied: the worker's process, or its machine, is gone"
    ends = {e.cell.method: e.error.partition(" (")[0] for e in events if e.kind == "finished"}
    expected = {
        "once": ("", None),
        "ever": (died, "killed"),
        "error": ("RuntimeError: no luck today", "error"),
        "hangs": ("TimedOut: no end after 5 s", "timeout"),
    }
    assert ends == {name: error for name, (error, _) in expected.items()}
    retried = [event.cell.method for event in events if event.kind == "retried"]
    assert sorted(retried) == ["ever", "once"]
    records = {cell.method: record_of(cell, settings) for cell in cells}
    told = {name: (r.error.partition(" (")[0], r.failure) for name, r in records.items()}
    assert told == expected
    tried = {name: len(notes(tmp_path, name)) for name in records}
    assert tried == {"once": 2, "ever": 2, "error": 1, "hangs": 1}


def test_workers_see_devices_of_their_own_and_a_lost_node_loses_no_cell(
    cluster: Cluster, settings: Settings, make_cells: Plugin, tmp_path: Path
) -> None:
    doomed = cluster.add_node(num_cpus=1, num_gpus=1, include_dashboard=False)
    cells = make_cells(seeds=4, stays="wait_for(4, 'stays.*.note'); wait_for(1, 'gone')")

    def remove() -> None:
        wait_until(lambda: len(notes(tmp_path, "stays")) == 4)
        cluster.remove_node(doomed, allow_graceful=False)
        # A worker outlives its node by a moment, in which it could end its cell.
        for path in tmp_path.glob("stays.*.note"):
            if path.read_text().startswith(doomed.node_id):
                pid = int(path.name.split(".")[1])
                wait_until(lambda pid=pid: not is_running(pid))
        (tmp_path / "gone").touch()

    thread = threading.Thread(target=remove, daemon=True)
    thread.start()
    events = run(cells, replace(settings, cache=tmp_path / "fresh"), gpus_per_cell=1)
    thread.join()

    # All four were at work together; the cell of the lost node was then run once more.
    places = notes(tmp_path, "stays")
    assert len({(node, device) for node, device, _ in places}) == 4
    assert {device for _, device, _ in places} == {"0", "1"}
    assert {threads for *_, threads in places} == {"1"}
    assert [node for node, *_ in places].count(doomed.node_id) == 1
    # What happens is told as by a local run; a cell ends twice if the doomed worker ends it, too.
    assert {event.kind for event in events} >= {"started", "encoding", "measured", "finished"}
    ended = [event for event in events if event.kind == "finished"]
    assert {event.cell.seed for event in ended} == {1, 2, 3, 4}
    assert {event.error for event in ended} == {""}
    assert all(len(record_of(cell, settings).records) == 2 for cell in cells)
    for cell in cells:
        kinds = [event.kind for event in events if event.cell == cell]
        assert (kinds[0], kinds[-1]) == ("started", "finished")
        assert kinds.count("measured") >= 2


def test_a_run_that_is_stopped_leaves_no_worker_on_the_cluster(
    settings: Settings, make_cells: Plugin, tmp_path: Path
) -> None:
    [cell] = make_cells(stays="time.sleep(600)")
    pids: list[int] = []

    def stop(_: Event) -> None:
        assert wait_until(lambda: notes(tmp_path, "stays"))
        pids.extend(int(path.name.split(".")[1]) for path in tmp_path.glob("stays.*.note"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settings.run([cell], stop)
    assert len(pids) == 1
    assert wait_until(lambda: not is_running(pids[0]), 30)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_node_with_other_code_stops_the_run_and_is_named(
    settings: Settings, make_cells: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    [cell] = make_cells(plain="pass")
    # Here alone, and not in the processes of workers.
    monkeypatch.setattr(on_ray, "ENGINE_VERSION", -1)
    with pytest.raises(CompatbenchError, match=r"node .* has another version of .* or of a method"):
        run([cell], settings)


def test_a_node_has_to_see_the_drivers_folders(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    view = on_ray.View((tmp_path / "here", tmp_path), (), on_ray.identify(()), tmp_path)
    assert view.find_difference() == ""
    away = replace(view, shared=(tmp_path / "away" / "token",))
    assert away.find_difference().startswith(f"does not see the driver's {tmp_path / 'away'};")


def test_what_no_cluster_holds_and_an_address_without_one_are_refused(settings: Settings) -> None:
    for compute, message in (
        ({"gpus_per_cell": 4}, "no node of the Ray cluster has 4 GPUs and 1 cores"),
        ({"gpus_per_cell": 1.5}, r"gpus_per_cell 1\.5: give a part of one GPU"),
        ({"address": "127.0.0.1:1"}, "'127.0.0.1:1': Connection refused; give auto, or HOST:PORT"),
        ({"address": "head:port"}, "invalid literal for int"),
    ):
        with pytest.raises(CompatbenchError, match=message):
            run([], settings, **compute)
