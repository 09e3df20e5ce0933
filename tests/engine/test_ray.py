"""Cells on a cluster of three nodes, which are processes here and only count their GPUs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import output_in
from planning import add_methods, cells_of

from compatbench.engine.cell import Cell
from compatbench.engine.compute import Compute
from compatbench.engine.execute.events import Event, OnEvent
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError

from .running import wait_until, write_methods

pytest.importorskip("ray", reason="the extra 'ray' is not installed")

from ray.cluster_utils import Cluster

from compatbench.engine.execute import on_ray
from compatbench.engine.execute.dispatcher import Job

pytestmark = pytest.mark.slow

# A node whose process is gone is lost after some seconds, not after a quarter of a minute; and no
# worker is started before it has a cell.
SYSTEM = {"health_check_period_ms": 500, "health_check_failure_threshold": 5}
SYSTEM |= {"prestart_worker_first_driver": False, "enable_worker_prestart": False}

# The head of method files; FOLDER is the test's folder.
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
        file.write(f"{node} {device} {os.environ.get('OMP_NUM_THREADS')} {os.getpid()}")
"""

# The head of a file that lets the driver send the run an object whose reading runs code.
SENDS_CODE = """
import pickle
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path

class Code:
    def __reduce__(self):
        return Path.touch, (Path(__file__).parent / "was-run",)

if parent_process() is not None:
    send_bytes = Connection.send_bytes
    Connection.send_bytes = lambda self, *_: send_bytes(self, pickle.dumps(("event", Code())))
    Connection.send = Connection.send_bytes
"""

Run = Callable[..., list[Event]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without cores, and two nodes that together hold three GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        patch.setenv("TMPDIR", "/tmp")  # in it are sockets, whose paths may not be long
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": SYSTEM}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(num_cpus=2, num_gpus=1, include_dashboard=False)
        cluster.add_node(num_cpus=4, num_gpus=2, include_dashboard=False)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def run(store: RunStore, cache: Path, cluster: Cluster) -> Run:
    """Return a function that runs cells, by default with half a GPU each, and returns events."""
    defaults = Compute("ray", "cpu", address=cluster.address, gpus_per_cell=0.5)

    def run(
        cells: list[Cell], on_event: OnEvent | None = None, cache: Path = cache, **compute: object
    ) -> list[Event]:
        events: list[Event] = []
        job = Job(cells, store.folder, cache, replace(defaults, **compute))
        on_ray.run_on_ray(job, on_event or events.append, lambda _: None)
        return events

    return run


def make_cells(folder: Path, seeds: int = 1, **fits: str) -> list[Cell]:
    """Return smoke cells, one for each seed, of new methods with the code of their fits."""
    noted = {name: f"note('{name}'); {fit}" for name, fit in fits.items()}
    write_methods(folder / "plugin.py", HEAD, **noted)
    add_methods(folder / "plugin.py")
    return cells_of("smoke", [*fits], seeds=range(1, seeds + 1))


def notes(folder: Path, name: str) -> list[list[str]]:
    """Return node, devices, threads and id of every process that wrote a note."""
    return [path.read_text().split(" ") for path in sorted(folder.glob(f"{name}.*.note"))]


def without_place(error: str) -> str:
    """Return an error without the line of code that follows it in brackets."""
    text, _, _ = error.partition(" (")
    return text


def is_running(pid: str) -> bool:
    """Return True if a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_results_are_those_of_the_local_run_byte_for_byte(cluster: Cluster, tmp_path: Path) -> None:
    command = ["run", "--suite", "smoke", "--methods", "coop,zeroshot"]
    cluster_options = ["--executor", "ray", "--address", cluster.address, "--gpus-per-cell", "0.5"]
    found = {}
    for name, options in (("local", ["--jobs", "1"]), ("ray", cluster_options)):
        out = tmp_path / name
        out.mkdir()
        output = output_in(out, *command, "--device", "cpu", *options)
        found[name] = {}
        for path in out.glob("results/smoke/*"):
            if path.name != "costs.csv":
                found[name][path.name] = path.read_bytes()
    assert "with 6 workers" in output
    assert "2 of 2 cells" in output
    assert len(found["local"]) == 4
    assert found["ray"] == found["local"]
    assert not list(tmp_path.rglob("compatbench-tmp-*"))


def test_what_a_method_makes_the_driver_send_is_not_run_here(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "plugin.py"
    path.write_text(SENDS_CODE)
    [cell] = make_cells(tmp_path, plain="pass")
    with pytest.raises(CompatbenchError, match="a method has changed what its process sends"):
        run([cell])
    assert not (tmp_path / "was-run").exists()


def test_death_is_retried_and_an_error_or_the_end_of_its_time_is_not(
    run: Run, store: RunStore, tmp_path: Path
) -> None:
    cells = make_cells(
        tmp_path,
        once="len(list(FOLDER.glob('once.*.note'))) > 1 or os._exit(3)",
        ever="os.kill(os.getpid(), 9)",
        error="raise RuntimeError('no luck today')",
        hangs="time.sleep(600)",
    )
    events = run(cells, timeout=5)
    expected = {
        "once": "",
        "ever": "WorkerDied: the worker's process, or its machine, is gone",
        "error": "RuntimeError: no luck today",
        "hangs": "TimedOut: no end after 5 s",
    }
    errors = {}
    retried = Counter[str]()
    for event in events:
        if event.kind == "finished":
            errors[event.cell.method] = without_place(event.error)
        elif event.kind == "retried":
            retried[event.cell.method] += 1
    assert errors == expected
    assert retried == {"once": 1, "ever": on_ray.DEATHS}
    recorded = {}
    for cell in cells:
        record = store.read(cell.key)
        if record is not None:
            recorded[record.method] = without_place(record.error)
    assert recorded == expected
    tried = {name: len(notes(tmp_path, name)) for name in expected}
    assert tried == {"once": 2, "ever": on_ray.DEATHS + 1, "error": 1, "hangs": 1}


def test_workers_see_devices_of_their_own_and_a_lost_node_loses_no_cell(
    cluster: Cluster, run: Run, store: RunStore, tmp_path: Path
) -> None:
    doomed = cluster.add_node(num_cpus=1, num_gpus=1, include_dashboard=False)
    waits = "wait_for(4, 'stays.*.note'); wait_for(1, 'gone')"
    cells = make_cells(tmp_path, seeds=4, stays=waits)

    def remove() -> None:
        wait_until(lambda: len(notes(tmp_path, "stays")) == 4)
        cluster.remove_node(doomed, allow_graceful=False)
        # A worker outlives its node by a moment, in which it could end its cell.
        for node, *_, pid in notes(tmp_path, "stays"):
            if node == doomed.node_id:
                wait_until(lambda pid=pid: not is_running(pid))
        (tmp_path / "gone").touch()

    thread = threading.Thread(target=remove, daemon=True)
    thread.start()
    events = run(cells, cache=tmp_path / "fresh", gpus_per_cell=1)
    thread.join()

    # All four worked at the same time; then the cell of the lost node was run again.
    places = notes(tmp_path, "stays")
    assert len({(node, device) for node, device, *_ in places}) == 4
    assert {(device, threads) for _, device, threads, _ in places} == {("0", "1"), ("1", "1")}
    assert [node for node, *_ in places].count(doomed.node_id) == 1
    # Events are those of a local run; a cell ends twice if the doomed worker ends it, too.
    assert {event.kind for event in events} >= {"started", "encoding", "measured", "finished"}
    ended = [event for event in events if event.kind == "finished"]
    assert {event.cell.seed for event in ended} == {1, 2, 3, 4}
    assert {event.error for event in ended} == {""}
    assert all(store.is_done(cell, store.read(cell.key)) for cell in cells)
    for cell in cells:
        kinds = [event.kind for event in events if event.cell == cell]
        assert (kinds[0], kinds[-1]) == ("started", "finished")
        assert kinds.count("measured") >= 2


def test_a_run_that_is_stopped_leaves_no_worker_on_the_cluster(run: Run, tmp_path: Path) -> None:
    cells = make_cells(tmp_path, sleeps="time.sleep(600)")

    def stop(_: Event) -> None:
        assert wait_until(lambda: notes(tmp_path, "sleeps"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cells, stop)
    [[*_, pid]] = notes(tmp_path, "sleeps")
    assert wait_until(lambda: not is_running(pid), 30)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_node_with_other_code_is_named(tmp_path: Path) -> None:
    view = on_ray.DriverView((), (), ("-1",), tmp_path)
    with pytest.raises(CompatbenchError, match=r"node .* has another version of .* or of a method"):
        view.check()


def test_a_node_has_to_see_the_drivers_folders(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    view = on_ray.DriverView((tmp_path / "here", tmp_path), (), on_ray.identify(()), tmp_path)
    view.check()
    away = replace(view, shared=(tmp_path / "away" / "token",))
    with pytest.raises(CompatbenchError, match=f"does not see the driver's {tmp_path / 'away'};"):
        away.check()


def test_requests_beyond_the_cluster_and_wrong_addresses_are_refused(run: Run) -> None:
    for compute, message in (
        ({"gpus_per_cell": 4}, "no node of the Ray cluster has 4 GPUs and 1 cores"),
        ({"address": "127.0.0.1:1"}, "'127.0.0.1:1': Connection refused; give auto, or HOST:PORT"),
        ({"address": "head:port"}, "invalid literal for int"),
    ):
        with pytest.raises(CompatbenchError, match=message):
            run([], **compute)
