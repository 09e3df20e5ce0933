"""Run the loop of a worker in actors of a Ray cluster, which places them on its nodes.

Ray ends the process that it runs in when it loses its cluster, and replaces handlers of signals. So
that process is a child of the run, called the driver. It imports methods, so it sends the run plain
data. Store and cache are folders that every node must see on one file system under one path. A
cell's key contains versions of the code, so every node must run the driver's.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from compatbench.engine.compute import Compute
from compatbench.engine.execute.dispatcher import POLL_SECONDS, Dispatcher, Job
from compatbench.engine.execute.events import Event, EventKind, OnEvent
from compatbench.engine.plan_data import read_data
from compatbench.engine.worker import Order, find_method, make_worker, run_cell, tell_problems
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files.processes import (
    end_with_parent,
    kill,
    receive_data,
    send_data,
    silence,
    start_process,
)
from compatbench.files.scratch import scratch_folder
from compatbench.messages import first_line
from compatbench.method.identity import method_identity
from compatbench.method.registry import builtin_methods

DEATHS = 3  # that a cell may cost: nodes come and go
REACH_SECONDS = 5.0
# Actors for which there is no room wait, and start when a node joins.
MAX_ACTORS = 1000
# Variables that mean the same to workers as to the driver. Not tokens: Ray shows variables to
# everyone who may look at the cluster.
INHERITED = ("COMPATBENCH_", "HF_HOME", "HF_HUB_", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")


SentEvent = tuple[EventKind, int, tuple[int, int], str]  # kind, number of the cell, encoded, error


@dataclass(frozen=True)
class DriverView:
    """The driver's files and code, which every node must see, too."""

    shared: tuple[Path, ...]  # files or folders that the driver has just made
    methods: tuple[tuple[str, str | None], ...]  # name and plug-in file of each that is run
    code: tuple[str, ...]  # the result of ``identify`` for these methods
    folder: Path  # the driver's current folder; relative paths in cards start there

    def check(self) -> None:
        """Raise a CompatbenchError that names this node if it sees anything else."""
        node = f"node {socket.gethostname()} of the Ray cluster"
        for path in self.shared:
            if not path.exists():
                raise CompatbenchError(
                    f"{node} does not see the driver's {path.parent}; put it on a file system that "
                    "all nodes share, under one path (--out, COMPATBENCH_CACHE)"
                )
        if identify(self.methods) != self.code:
            raise CompatbenchError(
                f"{node} has another version of compatbench or of a method; install the driver's"
            )


def identify(methods: Sequence[tuple[str, str | None]]) -> tuple[str, ...]:
    """Return the versions of the harness and of methods that are installed here."""
    versions = [str(ENGINE_VERSION)]
    for name, plugin in methods:
        versions.append(method_identity(builtin_methods().get(name, plugin)))
    return tuple(versions)


def run_on_ray(job: Job, on_event: OnEvent, on_workers: Callable[[int], object]) -> None:
    """Run the cells of a job on a cluster; ``on_workers`` is given the number of workers.

    Raises:
        CompatbenchError: the cluster cannot be used, or is lost. Finished cells are kept.
    """
    methods = tuple({(cell.method, cell.plugin) for cell in job.cells})
    for folder in (job.store, job.cache):
        folder.mkdir(parents=True, exist_ok=True)
    with (
        scratch_folder(inside=job.store) as in_store,
        scratch_folder(inside=job.cache) as in_cache,
        scratch_folder(for_sockets=True) as sockets,
    ):
        shared = (in_store, in_cache)
        process, connection = start_process(
            job.compute.threads, drive, job, shared, methods, sockets
        )
        try:
            is_alive = True
            while is_alive:
                is_alive = process.is_alive()  # before its last messages are read
                for kind, value in receive_data(connection, POLL_SECONDS):
                    if kind == "event":
                        on_event(_read_event(job, value))
                    elif kind == "workers":
                        on_workers(read_data(int, value))
                    elif kind == "warning":
                        warnings.warn(value, CompatbenchWarning, stacklevel=2)
                    else:
                        raise CompatbenchError(value)
            if process.exitcode:
                raise lost_cluster("Ray has ended its process")
        finally:
            kill(process)  # and all processes of Ray that it has started


def _read_event(job: Job, values: Any) -> Event:
    """Return an event that the driver has sent."""
    kind, number, encoded, error = read_data(SentEvent, values)
    if number not in range(len(job.cells)):
        raise CompatbenchError("a method has sent an event of no cell; nothing of it was used")
    return Event(kind, job.cells[number], encoded, error)


def lost_cluster(why: str) -> CompatbenchError:
    """Return the error of a run whose cluster is lost, in one line."""
    return CompatbenchError(
        f"the Ray cluster is lost: {why}; finished cells are kept, and the same command continues"
    )


def drive(
    connection: Connection,
    job: Job,
    shared: tuple[Path, ...],
    methods: tuple[tuple[str, str | None], ...],
    sockets: Path,
) -> None:
    """Give cells to the cluster's workers, in a child of the run."""
    end_with_parent(leads=True)
    silence(1, 2)  # Ray writes pages when it loses a cluster

    def tell(kind: str, value: Any) -> None:
        send_data(connection, (kind, value))

    numbers = {cell: number for number, cell in enumerate(job.cells)}

    def tell_event(event: Event) -> None:
        tell("event", (event.kind, numbers[event.cell], event.encoded, event.error))

    with tell_problems(tell):
        for cell in job.cells:
            find_method(cell)  # which must be as it was planned
        view = DriverView(shared, methods, identify(methods), Path.cwd())
        try:
            _connect(job.compute, sockets)
            crew = Actors(job, view)
            tell("workers", job.compute.jobs or crew.room)
            dispatcher = Dispatcher(job, crew, tell_event)
            dispatcher.run(job.compute.jobs or MAX_ACTORS)
        except CompatbenchError:
            raise
        except Exception as error:
            raise lost_cluster(first_line(error).rstrip(".")) from None


class Actors:
    """A crew of actors, each a process on a node, with the devices that Ray gives it."""

    deaths = DEATHS

    def __init__(self, job: Job, view: DriverView) -> None:
        import ray

        device = job.compute.device
        gpus = job.compute.gpus_per_cell
        threads = job.compute.threads
        resources = ray.cluster_resources()
        if device == "auto":
            device = "cuda" if resources.get("GPU") else "cpu"
        if gpus is None:
            gpus = float(device == "cuda")
        self.room = _count_room(threads, gpus)
        if self.room == 0:
            raise CompatbenchError(
                f"no node of the Ray cluster has {gpus:g} GPUs and {threads} cores for a cell, of "
                f"{resources.get('GPU', 0):g} GPUs and {resources.get('CPU', 0):g} cores in all; "
                "ask for less "
                "with --gpus-per-cell, --threads or --device"
            )
        actor: Any = ray.remote(NodeWorker)
        self._actor = actor.options(
            scheduling_strategy="SPREAD",
            num_cpus=threads,
            num_gpus=gpus,
            max_concurrency=2,  # it sends messages while it runs a cell
        )
        # Workers are given their cells one by one.
        self._arguments = (ray.put(replace(job, cells=())), view, device)
        self._numbers = count(1)
        self._actors = dict[int, Any]()
        self._pending = dict[Any, int]()  # worker by the future of its next messages

    def start(self) -> None:
        worker = next(self._numbers)
        self._actors[worker] = self._actor.remote(*self._arguments)
        self._pending[self._actors[worker].listen.remote()] = worker

    def send(self, worker: int, order: Order) -> None:
        self._actors[worker].run.remote(order)

    def listen(self, seconds: float, on_message: Callable[[int, str, Any], None]) -> None:
        import ray
        from ray.exceptions import RayError

        ready, _ = ray.wait(list(self._pending), timeout=seconds)
        for future in ready:
            worker = self._pending.pop(future)
            actor = self._actors.get(worker)
            if actor is None:  # it was killed
                continue
            try:
                messages = ray.get(future)
            except RayError:
                del self._actors[worker]
                messages = [("died", "WorkerDied: the worker's process, or its machine, is gone")]
            else:
                self._pending[actor.listen.remote()] = worker
            for kind, value in messages:
                on_message(worker, kind, value)

    def find_stopped(self) -> list[int]:
        return []  # nodes do not report it

    def kill(self, worker: int) -> None:
        import ray

        ray.kill(self._actors.pop(worker))

    def end(self) -> None: ...  # actors end with the driver


class NodeWorker:
    """An actor that runs cells, and can be listened to meanwhile."""

    def __init__(self, job: Job, view: DriverView, device: str) -> None:
        self._messages = SimpleQueue[tuple[str, Any]]()
        with suppress(OSError):
            os.chdir(view.folder)  # as in processes that the driver starts itself
        with tell_problems(self._tell):
            view.check()
            self._worker = make_worker(job.store, job.cache, job.compute.on(device))
            self._tell("ready", None)

    def _tell(self, kind: str, value: Any) -> None:
        self._messages.put((kind, value))

    def run(self, order: Order) -> None:
        try:
            with tell_problems(self._tell):
                run_cell(self._worker, order, self._tell)
        except BaseException:
            os._exit(1)  # the driver only notices the end of a process

    def listen(self) -> list[tuple[str, Any]]:
        """Return the messages that have come, after waiting for one."""
        messages = [self._messages.get()]
        while not self._messages.empty():
            messages.append(self._messages.get())
        return messages


def _connect(compute: Compute, sockets: Path) -> None:
    """Connect to a Ray cluster; by default to one of this machine, which ends with the run."""
    import ray

    address = compute.address or os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Until Ray ends this process, if it loses the head while it connects; by default a minute.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "30")
    variables = {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}
    # BLAS reads its thread count when it is loaded, before any of our code runs.
    variables["OMP_NUM_THREADS"] = str(compute.threads)
    settings: dict[str, Any] = {}
    if address == "local":
        settings = {"include_dashboard": False, "_temp_dir": str(sockets)}
    try:
        if ":" in address:  # Ray itself would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
        ray.init(address, log_to_driver=False, runtime_env={"env_vars": variables}, **settings)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        text = first_line(error).rstrip(".:")
        if address == "local":
            raise lost_cluster(f"it does not start ({text})") from None
        raise CompatbenchError(
            f"cannot use the Ray cluster '{address}': {text}; give auto, or HOST:PORT as "
            "'ray start --head' shows it, or leave out --address and RAY_ADDRESS to use this "
            "machine alone; if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from None


def _count_room(threads: int, gpus: float) -> int:
    """Return how many workers the living nodes hold; if they share GPUs, some may have to wait."""
    import ray

    workers = 0
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        resources = node["Resources"]
        room = resources.get("CPU", 0) / threads
        if gpus:
            # A little more, because shares such as 0.1 are not exact.
            room = min(room, resources.get("GPU", 0) / gpus + 1e-9)
        workers += int(room)
    return workers
