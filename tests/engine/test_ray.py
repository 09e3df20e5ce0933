"""Cells on a cluster of three nodes, which are processes here, with GPUs that are numbers only."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compatbench.data.cards import suite_cards
from compatbench.engine.cell import Cell, CellRecord
from compatbench.engine.execute.settings import Event, Settings
from compatbench.engine.plan import plan_cells
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.method.registry import builtin_methods

from .conftest import Run

pytest.importorskip("ray", reason="the extra 'ray' is not installed")

import ray
from ray.cluster_utils import Cluster

from compatbench.engine.execute.ray_backend import run_cells_on_ray
from compatbench.engine.execute.ray_cluster import (
    Share,
    connect,
    find_difference,
    require_workers,
    resolve_share,
    shared_view,
)

pytestmark = pytest.mark.slow

# A node whose process is gone is lost after a second, not after a quarter of a minute.
IMPATIENT = {"health_check_period_ms": 200, "health_check_failure_threshold": 5}
HALF = Share(gpus=0.5, cpus=1)
PATIENCE = 240  # seconds, on a machine that is busy with other things

# What the methods of these tests do in their fit; FOLDER is the test's own.
HEAD = """
import os, time
from pathlib import Path
import ray
from compatbench.method import CosineClassifier, Method, MethodCard, Module

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

class Shared(Method):
    def attach(self, module, backbone, labels):
        return CosineClassifier(backbone.zero_shot(labels), 1.0)
"""
BODY = """
class {cls}(Shared):
    card = MethodCard("{name}", "{cls}", "none", "classifier", "for a test")
    def fit(self, backbone, data, rng):
        note("{name}")
        {fit}
        return Module()
"""

Plugin = Callable[..., list[Cell]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without cores, and two nodes that together hold three GPUs."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": IMPATIENT},
    )
    cluster.add_node(num_cpus=2, num_gpus=1, include_dashboard=False)
    cluster.add_node(num_cpus=4, num_gpus=2, include_dashboard=False)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def connected(cluster: Cluster) -> Iterator[Cluster]:
    with connect(cluster.address):
        yield cluster


@pytest.fixture
def settings(tmp_path: Path, cache: Path) -> Settings:
    return Settings(tmp_path / "runs", cache)


@pytest.fixture
def make_cells(tmp_path: Path) -> Iterator[Plugin]:
    """Plans smoke cells of methods whose fit is given here, one cell for each seed."""
    registry = builtin_methods()
    before = dict(registry.classes)

    def make(seeds: int = 1, **fits: str) -> list[Cell]:
        bodies = [BODY.format(cls=name.title(), name=name, fit=fit) for name, fit in fits.items()]
        plugin = tmp_path / f"plugin_{'_'.join(fits)}.py"
        plugin.write_text(HEAD + "".join(bodies))
        registry.add_file(plugin)
        suite = suite_cards.read("smoke")
        return plan_cells(suite, registry, list(fits), seeds=range(1, seeds + 1))

    yield make
    registry.classes.clear()
    registry.classes.update(before)


def run(cells: list[Cell], settings: Settings, share: Share = HALF, **options: Any) -> list[Event]:
    events: list[Event] = []
    run_cells_on_ray(cells, settings, share, events.append, **options)
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
    record = RunStore(settings.store).read(cell.key)
    assert record is not None
    return record


def test_results_are_those_of_the_local_run_byte_for_byte(
    cluster: Cluster, compatbench: Run, tmp_path: Path
) -> None:
    command = ["run", "--suite", "smoke", "--methods", "coop,linear_probe,zeroshot"]
    cluster_options = ["--executor", "ray", "--address", cluster.address, "--gpus-per-cell", "0.5"]
    found = {}
    for name, options in (("local", ["--jobs", "1"]), ("ray", cluster_options)):
        out = tmp_path / name
        out.mkdir()
        result = compatbench(*command, "--device", "cpu", *options, cwd=out)
        assert result.returncode == 0, result.stderr
        paths = [path for path in out.glob("results/smoke/*") if ".cost" not in path.name]
        found[name] = {path.name: path.read_bytes() for path in paths}
    assert "with 6 workers" in result.stdout
    assert "3 of 3 cells" in result.stdout
    assert len(found["local"]) == 6
    assert found["ray"] == found["local"]
    assert not list(tmp_path.rglob(".shared*"))


def test_workers_at_work_together_see_devices_of_their_own(
    connected: Cluster, settings: Settings, make_cells: Plugin, tmp_path: Path
) -> None:
    cells = make_cells(seeds=3, meets="wait_for(3, 'meets.*.note')")
    fresh = replace(settings, cache=tmp_path / "fresh")
    events = run(cells, fresh, Share(gpus=1, cpus=1))
    places = notes(tmp_path, "meets")
    assert len(places) == 3
    assert len({(node, device) for node, device, _ in places}) == 3
    assert {device for _, device, _ in places} == {"0", "1"}
    assert {threads for *_, threads in places} == {"1"}
    # What happens is told as by a local run.
    assert {event.kind for event in events} == {"started", "encoding", "measured", "finished"}
    for cell in cells:
        kinds = [event.kind for event in events if event.cell == cell]
        assert kinds[0] == "started"
        assert kinds[-1] == "finished"
        assert kinds.count("measured") == 2


def test_death_is_retried_and_an_error_is_not(
    connected: Cluster, settings: Settings, make_cells: Plugin, tmp_path: Path
) -> None:
    cells = make_cells(
        once="len(list(FOLDER.glob('once.*.note'))) > 1 or os._exit(3)",
        ever="os.kill(os.getpid(), 9)",
        error="raise RuntimeError('no luck today')",
    )
    events = run(cells, settings)
    ends = {event.cell.method: event.error for event in events if event.kind == "finished"}
    died = ends["ever"]
    assert re.fullmatch(r"WorkerDied: worker process died 3 times, on (1 node|2 nodes)", died)
    assert ends == {"once": "", "ever": died, "error": "RuntimeError: no luck today"}
    retried = [event.cell.method for event in events if event.kind == "retried"]
    assert sorted(retried) == ["ever", "ever", "once"]
    records = {cell.method: record_of(cell, settings) for cell in cells}
    assert {name: record.error for name, record in records.items()} == ends
    kinds = {name: record.failure for name, record in records.items()}
    assert kinds == {"once": None, "ever": "killed", "error": "error"}
    tried = {name: len(notes(tmp_path, name)) for name in records}
    assert tried == {"once": 2, "ever": 3, "error": 1}
    assert len(records["once"].records) == 2


def test_what_died_on_a_node_is_run_on_another(
    connected: Cluster, settings: Settings, make_cells: Plugin, tmp_path: Path
) -> None:
    # Three workers of one GPU each are on both nodes, and stay there until the death was seen.
    cells = make_cells(
        seeds=2,
        stays="wait_for(1, 'seen')",
        dies="wait_for(3, '*.note'); len(list(FOLDER.glob('dies.*.note'))) > 1 or os._exit(3)",
    )
    stay = [cell for cell in cells if cell.method == "stays"]
    dies = next(cell for cell in cells if cell.method == "dies")

    def see(event: Event) -> None:
        if event.kind == "retried":
            (tmp_path / "seen").touch()

    run_cells_on_ray([*stay, dies], settings, Share(gpus=1, cpus=1), see)
    first, second = (node for node, *_ in notes(tmp_path, "dies"))
    assert first != second
    assert len(record_of(dies, settings).records) == 2


def test_a_lost_node_loses_no_cell(
    connected: Cluster, settings: Settings, make_cells: Plugin, tmp_path: Path
) -> None:
    doomed = connected.add_node(num_cpus=1, num_gpus=1, include_dashboard=False)
    cells = make_cells(seeds=4, stays="wait_for(4, 'stays.*.note'); wait_for(1, 'gone')")

    def remove() -> None:
        while len(notes(tmp_path, "stays")) < 4:
            time.sleep(0.02)
        connected.remove_node(doomed, allow_graceful=False)
        # A worker outlives its node by a moment, in which it could end its cell.
        for path in tmp_path.glob("stays.*.note"):
            if path.read_text().startswith(doomed.node_id):
                while is_running(int(path.name.split(".")[1])):
                    time.sleep(0.02)
        (tmp_path / "gone").touch()

    thread = threading.Thread(target=remove, daemon=True)
    thread.start()
    events = run(cells, settings, Share(gpus=1, cpus=1))
    thread.join()

    assert [event.error for event in events if event.kind == "finished"] == [""] * 4
    # The last words of the lost node may be lost with it.
    assert [event.kind for event in events].count("started") in (4, 5)
    assert [event.error for event in events if event.kind == "retried"] == ["WorkerDied: node lost"]
    assert all(len(record_of(cell, settings).records) == 2 for cell in cells)
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    assert [node in alive for node, *_ in notes(tmp_path, "stays")].count(False) == 1


def test_a_cell_that_hangs_is_ended(
    connected: Cluster, settings: Settings, make_cells: Plugin
) -> None:
    [cell] = make_cells(hangs="time.sleep(300)")
    events = run([cell], replace(settings, timeout=2))
    assert events[-1].error == "TimedOut: no end after 2 s"
    assert record_of(cell, settings).failure == "timeout"


def test_a_node_that_does_not_see_the_store_is_named_and_not_used(
    connected: Cluster, settings: Settings, make_cells: Plugin, tmp_path: Path
) -> None:
    # Python on this node finds no token, as if another folder were mounted there.
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib\n"
        "read = pathlib.Path.read_bytes\n"
        "pathlib.Path.read_bytes = lambda path: b'' if '.shared' in path.name else read(path)\n"
    )
    node = connected.add_node(
        num_cpus=4,
        resources={"blind": 1},
        include_dashboard=False,
        env_vars={"PYTHONPATH": str(tmp_path)},
    )
    [blind] = (node["NodeID"] for node in ray.nodes() if node["Resources"].get("blind"))
    cells = make_cells(seeds=2, sees="pass")
    try:
        with pytest.warns(CompatbenchWarning) as told:
            run(cells, settings, Share(gpus=0, cpus=4))
    finally:
        connected.remove_node(node)
    [warning] = told
    assert f"({blind[:8]}) does not see the driver's {settings.store}" in str(warning.message)
    assert "put it on a file system that all nodes share" in str(warning.message)
    assert blind not in {node for node, *_ in notes(tmp_path, "sees")}
    assert notes(tmp_path, "sees")


def test_what_a_node_can_see_in_another_way(settings: Settings, make_cells: Plugin) -> None:
    cells = make_cells(plain="pass")
    with shared_view(settings, cells) as view:
        assert find_difference(view) == ""
        assert "another version of compatbench" in find_difference(replace(view, engine=-1))
        other = replace(view, methods=dict.fromkeys(view.methods, "0" * 64))
        assert find_difference(other) == "has other code of method 'plain'; install the driver's"
        lost = replace(view, methods={("gone", "/nowhere.py"): "0" * 64})
        assert find_difference(lost).startswith("cannot load a method: method file /nowhere.py")
    assert find_difference(view).startswith(f"does not see the driver's {settings.store};")


def test_a_share_that_no_node_holds_is_refused(connected: Cluster) -> None:
    with pytest.raises(CompatbenchError, match="no node of the Ray cluster has 4 GPU and 1 core"):
        require_workers(Share(gpus=4, cpus=1))
    assert resolve_share("auto", None, 1) == ("cuda", Share(1.0, 1))
    assert resolve_share("cpu", None, 2) == ("cpu", Share(0.0, 2))
    with pytest.raises(CompatbenchError, match=r"--gpus-per-cell 1\.5: give a part of one GPU"):
        resolve_share("cpu", 1.5, 1)


@pytest.mark.parametrize(
    ("share", "gpus", "cpus", "workers"),
    [
        (Share(0.25, 1), 2, 64, 8),
        (Share(0.25, 1), 2, 6, 6),
        (Share(0.3, 1), 2, 64, 6),  # three on each GPU: no worker has parts of two
        (Share(2, 4), 5, 64, 2),
        (Share(0, 4), 0, 10, 2),
        (Share(1, 1), 0, 64, 0),
    ],
)
def test_a_node_holds_as_many_workers_as_its_gpus_and_cores_allow(
    share: Share, gpus: float, cpus: float, workers: int
) -> None:
    assert share.fit_into(gpus, cpus) == workers


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", "Ray Client is not supported"),
        ("127.0.0.1:1", "'127.0.0.1:1': Connection refused; start one with 'ray start --head'"),
        ("head:port", "invalid literal for int"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(address: str, message: str) -> None:
    with pytest.raises(CompatbenchError, match=message), connect(address):
        pass


def test_a_server_that_is_not_ray_is_refused_at_once() -> None:
    """Ray would try to reach it for minutes, and write pages of messages."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            connection.recv(9)
            connection.sendall(b"HTTP/1.1 400 Bad Request")
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(CompatbenchError, match="start one with"), connect(address):
            pass
        thread.join()


def test_ctrl_c_stops_a_cluster_of_this_machine(
    make_cells: Plugin, tmp_path: Path, cache: Path
) -> None:
    [cell] = make_cells(slow="time.sleep(300)")
    assert cell.plugin is not None
    environment = os.environ | {"COMPATBENCH_CACHE": str(cache)}
    environment.pop("RAY_ADDRESS", None)
    options = ["--suite", "smoke", "--methods", cell.plugin, "--executor", "ray"]
    process = subprocess.Popen(
        [sys.executable, "-m", "compatbench", "run", *options],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not notes(tmp_path, "slow") and time.monotonic() < deadline:
            time.sleep(0.05)
        [note] = tmp_path.glob("slow.*.note")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all that it started
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert not list(tmp_path.rglob(".shared*"))
    worker = Path(f"/proc/{note.name.split('.')[1]}")
    while worker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.exists()
