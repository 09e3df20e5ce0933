"""Runs cells on a Ray cluster: the same cells, events, store and records as on one machine."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, cast

import ray
from ray.exceptions import RayError, RayTaskError

from compatbench.engine.cell import Cell
from compatbench.engine.execute.cell_queue import CellQueue
from compatbench.engine.execute.compute import Compute, Event, OnEvent, Settings
from compatbench.engine.execute.scheduler import Message, Scheduler, WorkerHandle, report_cell
from compatbench.engine.failures import DIED, Failure
from compatbench.engine.worker import find_method, make_worker
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.messages import first_line
from compatbench.method.identity import method_identity

DEATHS = 3  # that a cell may cost, unless ``retry`` says otherwise: nodes come and go
MOST_FAILED_STARTS = 5  # in a row
REACH_SECONDS = 5.0
POLL_SECONDS = 0.5
LOOK_SECONDS = 1.0  # between looks at what there is of the cluster

# Variables that mean the same to workers as to the driver. Not tokens: Ray shows variables to
# everyone who may look at the cluster.
INHERITED = ("COMPATBENCH_", "HF_HOME", "HF_HUB_", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")


@dataclass(frozen=True)
class Cluster:
    """A cluster that a run is connected to."""

    workers: int
    servers: dict[str, str]  # HOST:PORT of what the run cannot do without, by what it is


@dataclass(frozen=True)
class View:
    """What every node must see as the driver does."""

    tokens: list[Path]  # files that the driver has just written
    methods: list[tuple[str, str | None]]  # name and plug-in file of each that is run
    code: list[str]  # what ``identify`` makes of them
    folder: Path  # where the driver runs; relative paths in cards start there

    def find_difference(self) -> str:
        """What this node sees in another way than the driver; empty if nothing."""
        for path in self.tokens:
            if not path.exists():
                return (
                    f"does not see the driver's {path.parent}; put it on a file system that all "
                    "nodes share, under one path (--out, COMPATBENCH_CACHE)"
                )
        if identify(self.methods) != self.code:
            return "has another version of compatbench or of a method; install the driver's"
        return ""


def identify(methods: Sequence[tuple[str, str | None]]) -> list[str]:
    """The versions of the harness and of methods that are installed here."""
    return [str(ENGINE_VERSION), *(method_identity(find_method(*each)) for each in methods)]


def drive(
    send: Callable[[Cluster | Event], object],
    queue: CellQueue[Cell],
    settings: Settings,
    view: View,
    folder: Path,
) -> None:
    """Runs cells on a cluster, and sends first which it is, then what happens.

    This process is to end then, and with it what the cluster still does for it. The folder is
    for the files of a cluster that is started here.
    """
    compute = settings.compute
    _connect(compute, folder)
    device, gpus = compute.device, compute.gpus_per_cell
    if device == "auto":
        device = "cuda" if ray.cluster_resources().get("GPU") else "cpu"
    if gpus is None:
        gpus = float(device == "cuda")
    retry = {"killed": DEATHS, **compute.retry}
    compute = replace(compute, device=device, gpus_per_cell=gpus, retry=retry)
    workers = count_workers(compute)
    if workers == 0:
        has = ray.cluster_resources()
        raise CompatbenchError(
            f"no node of the Ray cluster has {gpus:g} GPUs and {compute.threads} cores for a "
            f"cell, of {has.get('GPU', 0):g} GPUs and {has.get('CPU', 0):g} cores in all; ask "
            "for less with --gpus-per-cell, --threads or --device"
        )
    here = ray.get_runtime_context()
    [node] = [node for node in ray.nodes() if node["NodeID"] == here.get_node_id()]
    raylet = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    servers = {"its head (GCS)": here.gcs_address, "the node (raylet) of this machine": raylet}
    send(Cluster(compute.jobs or workers, servers))
    RayScheduler(queue, replace(settings, compute=compute), send, view).run()


def connect(place: str) -> None:
    """Finds out whether HOST:PORT answers; raises OSError, ValueError or OverflowError."""
    host, _, port = place.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()


def lost_cluster(why: str) -> CompatbenchError:
    """The end of a run on Ray, in one line."""
    return CompatbenchError(
        f"the Ray cluster is lost: {why}; finished cells are kept, and the same command continues"
    )


def _connect(compute: Compute, folder: Path) -> None:
    """Connects to a Ray cluster; by default to one of this machine, which ends with the run."""
    where = compute.address or os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Until Ray ends this process, if it loses the head while it connects; by default a minute.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "30")
    inherited = {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}
    own = {"include_dashboard": False, "_temp_dir": str(folder)} if where == "local" else {}
    try:
        if ":" in where:  # Ray itself would try for minutes
            connect(where)
        ray.init(
            where,
            log_to_driver=False,
            # BLAS reads its thread count when it is loaded, before any of our code runs.
            runtime_env={"env_vars": {**inherited, "OMP_NUM_THREADS": str(compute.threads)}},
            **own,
        )
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        text = first_line(error).rstrip(".:")
        if where == "local":
            raise lost_cluster(f"it does not start ({text})") from None
        raise CompatbenchError(
            f"cannot use the Ray cluster '{where}': {text}; give auto, or HOST:PORT as 'ray start "
            "--head' shows it, or leave out --address and RAY_ADDRESS to use this machine alone; "
            "if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from None


def count_workers(compute: Compute) -> int:
    """How many workers the living nodes hold; of parts that leave a rest, some may have to wait."""
    workers = 0
    for has in (node["Resources"] for node in ray.nodes() if node["Alive"]):
        room = [has.get("CPU", 0) / compute.threads]
        if compute.gpus_per_cell:
            room.append(has.get("GPU", 0) / compute.gpus_per_cell + 1e-9)
        workers += int(min(room))
    return workers


class CellActor:
    """Runs cells one after the other, keeping backbones and features in memory between them.

    Ray starts it in a process of its own, in which only the devices that it was given can be
    seen, and gives them to others once that process is gone.
    """

    def start(self, settings: Settings, view: View) -> str:
        """Gets ready; returns why no cell can be run here, or nothing."""
        with suppress(OSError):
            os.chdir(view.folder)  # as processes do that the driver starts itself
        try:
            problem = view.find_difference()
            self._worker = make_worker(settings)
        except CompatbenchError as error:
            problem = f"cannot run cells: {error}"
        return problem and f"node {socket.gethostname()} of the Ray cluster {problem}"

    def run(self, cell: Cell) -> Iterator[Message]:
        """Runs a cell and streams what happens."""
        messages: SimpleQueue[Message | None] = SimpleQueue()

        def work() -> None:
            report_cell(self._worker, cell, messages.put)
            messages.put(None)

        Thread(target=work, daemon=True).start()
        while (message := messages.get()) is not None:
            yield message


@dataclass(eq=False, kw_only=True)
class RayWorker(WorkerHandle):
    """An actor, and what it owes: the result of its start, or the messages of its cell."""

    actor: Any
    answer: Any


class RayScheduler(Scheduler[RayWorker]):
    """Runs cells in actors on a Ray cluster; a dead one is replaced where there is room."""

    def __init__(
        self, queue: CellQueue[Cell], settings: Settings, on_event: OnEvent, view: View
    ) -> None:
        super().__init__(queue, settings, on_event)
        self._view = view
        self._room = self._failed_starts = 0
        self._next_look = 0.0

    def count_room(self) -> int:
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            self._room = self.settings.compute.jobs or count_workers(self.settings.compute)
        return self._room

    def start_worker(self) -> RayWorker:
        actor_class: Any = ray.remote(CellActor)
        actor = actor_class.options(
            num_cpus=self.settings.compute.threads,
            num_gpus=self.settings.compute.gpus_per_cell,
            max_restarts=0,  # another is started, which may be elsewhere
            scheduling_strategy="SPREAD",
        ).remote()
        answer = actor.start.remote(self.settings, self._view)
        return RayWorker(ready=False, actor=actor, answer=answer)

    def start_cell(self, worker: RayWorker, cell: Cell) -> None:
        worker.answer = worker.actor.run.options(num_returns="streaming").remote(cell)

    def receive(self, seconds: float | None) -> Iterator[tuple[RayWorker, Message]]:
        workers = {worker.answer: worker for worker in self.workers if worker.answer is not None}
        if not workers:
            time.sleep(POLL_SECONDS)
            return
        patience = POLL_SECONDS if seconds is None else min(seconds, POLL_SECONDS)
        ready, _ = ray.wait(list(workers), num_returns=1, timeout=patience)
        for worker in (workers[answer] for answer in ready):
            if not worker.ready:
                self._finish_start(worker)
                continue
            try:
                message = cast(Message, ray.get(next(worker.answer)))
            except RayError as error:
                message = Failure(f"{DIED}: {_describe(error)}")
            if isinstance(message, Event) and message.ends_attempt:
                worker.answer = None
            yield worker, message

    def end_worker(self, worker: RayWorker) -> None:
        ray.kill(worker.actor)

    def _finish_start(self, worker: RayWorker) -> None:
        try:
            problem = ray.get(worker.answer)
            worker.answer, worker.ready, self._failed_starts = None, True, 0
        except RayError as error:  # a node may be lost just then
            self.workers.remove(worker)
            self.end_worker(worker)
            self._failed_starts += 1
            failed = self._failed_starts == MOST_FAILED_STARTS
            problem = f"no worker starts on the Ray cluster: {_describe(error)}" if failed else ""
        if problem:
            raise CompatbenchError(problem)


def _describe(error: RayError) -> str:
    """What went wrong on the other side, in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # Of an exception Ray gives the other side's trace, which ends with it.
    return lines[-1 if isinstance(error, RayTaskError) else 0]
