"""Runs the loop of a worker as tasks of a Ray cluster, which places and retries them.

Ray ends the process that it runs in when it loses its cluster, and handles signals in its own way.
So that is a child of the run. Store and cache are folders that every node must see on one file
system under one path; and a cell's key names versions of the code, so every node must run the
driver's.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from compatbench.engine.compute import Compute
from compatbench.engine.execute.events import Diary, Event, Note, OnEvent
from compatbench.engine.execute.local import POLL_SECONDS, follow
from compatbench.engine.execute.loop import Job, work
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.files.processes import end_with_parent, kill, silence, start_process
from compatbench.files.scratch import scratch_folder
from compatbench.messages import first_line
from compatbench.method.identity import method_identity
from compatbench.method.registry import builtin_methods

DEATHS = 3  # that a cell, or a task, may cost: nodes come and go
REACH_SECONDS = 5.0
MOST_TASKS = 1000
# Variables that mean the same to workers as to the driver. Not tokens: Ray shows variables to
# everyone who may look at the cluster.
INHERITED = ("COMPATBENCH_", "HF_HOME", "HF_HUB_", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")


@dataclass(frozen=True)
class View:
    """What every node must see as the driver does."""

    shared: tuple[Path, ...]  # files or folders that the driver has just made
    methods: tuple[tuple[str, str | None], ...]  # name and plug-in file of each that is run
    code: tuple[str, ...]  # what ``identify`` makes of them
    folder: Path  # where the driver runs; relative paths in cards start there

    def find_difference(self) -> str:
        """What this node sees in another way than the driver; empty if nothing."""
        for path in self.shared:
            if not path.exists():
                return (
                    f"does not see the driver's {path.parent}; put it on a file system that all "
                    "nodes share, under one path (--out, COMPATBENCH_CACHE)"
                )
        if identify(self.methods) != self.code:
            return "has another version of compatbench or of a method; install the driver's"
        return ""


def identify(methods: Sequence[tuple[str, str | None]]) -> tuple[str, ...]:
    """The versions of the harness and of methods that are installed here."""
    classes = (builtin_methods().get(*each) for each in methods)
    return (str(ENGINE_VERSION), *map(method_identity, classes))


def run_on_ray(job: Job, on_event: OnEvent, on_workers: Callable[[int], object]) -> None:
    """Runs the cells of a job on a cluster; ``on_workers`` is given the number of workers.

    Raises:
        CompatbenchError: the cluster cannot be used, or is lost. Finished cells are kept.
    """
    token = job.cache / f".shared.{secrets.token_hex(6)}.tmp"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.touch()
    methods = tuple({(cell.method, cell.plugin) for cell in job.cells})
    view = View((job.folder, token), methods, identify(methods), Path.cwd())
    retry = {"killed": DEATHS, **job.compute.retry}
    job = replace(job, compute=replace(job.compute, retry=retry))
    try:
        with scratch_folder(for_sockets=True) as sockets:
            follow(RayCrew(job, view, sockets), job, on_event, on_workers)
    finally:
        token.unlink(missing_ok=True)


class RayCrew:
    """The child that is connected to the cluster."""

    def __init__(self, job: Job, view: View, sockets: Path) -> None:
        self._process, _ = start_process(job.compute.threads, drive, job, view, sockets)

    def tend(self) -> Iterator[Event]:
        self._process.join(POLL_SECONDS)
        yield from ()

    def is_at_work(self) -> bool:
        if self._process.exitcode:
            raise lost_cluster("Ray has ended its process")
        return self._process.is_alive()

    def end(self) -> None:
        kill(self._process)  # and all of Ray's that it has started


def lost_cluster(why: str) -> CompatbenchError:
    """The end of a run on Ray, in one line."""
    return CompatbenchError(
        f"the Ray cluster is lost: {why}; finished cells are kept, and the same command continues"
    )


def drive(_: Connection, job: Job, view: View, sockets: Path) -> None:
    """The life of the child: it starts the tasks, and waits for them."""
    end_with_parent(leads=True)
    silence(1, 2)  # Ray writes pages when it loses a cluster
    tell = Diary(job.folder, "driver")
    try:
        _run_tasks(job, view, sockets, tell)
    except CompatbenchError as error:
        tell(Note("broken", str(error)))
    except Exception as error:
        tell(Note("broken", str(lost_cluster(first_line(error).rstrip(".")))))


def _run_tasks(job: Job, view: View, sockets: Path, tell: Diary) -> None:
    import ray
    from ray.exceptions import RayError

    _connect(job.compute, sockets)
    compute = job.compute
    device, gpus = compute.device, compute.gpus_per_cell
    if device == "auto":
        device = "cuda" if ray.cluster_resources().get("GPU") else "cpu"
    if gpus is None:
        gpus = float(device == "cuda")
    workers = _count_workers(compute.threads, gpus)
    if workers == 0:
        has = ray.cluster_resources()
        raise CompatbenchError(
            f"no node of the Ray cluster has {gpus:g} GPUs and {compute.threads} cores for a "
            f"cell, of {has.get('GPU', 0):g} GPUs and {has.get('CPU', 0):g} cores in all; ask "
            "for less with --gpus-per-cell, --threads or --device"
        )
    tell(Note("workers", str(compute.jobs or workers)))
    task: Any = ray.remote(work_on_node)
    task = task.options(
        num_cpus=compute.threads,
        num_gpus=gpus,
        # Each cell may cost so many workers; then the cells that are left still need one.
        max_retries=len(job.cells) * (job.compute.retry.get("killed", 0) + 1),
        scheduling_strategy="SPREAD",
    )
    job_on_cluster = ray.put(job)
    # More than there is room for: those wait, and begin where a node joins.
    wanted = min(compute.jobs or MOST_TASKS, len(job.cells))
    tasks = [task.remote(job_on_cluster, view, device) for _ in range(wanted)]
    while True:
        [ended], tasks = ray.wait(tasks)
        try:
            ray.get(ended)
            return  # no cell was left
        except RayError:
            if not tasks:
                raise


def work_on_node(job: Job, view: View, device: str) -> None:
    """The life of a worker on a node, in a process that sees only the devices it was given."""
    name = secrets.token_hex(6)
    with suppress(OSError):
        os.chdir(view.folder)  # as processes do that the driver starts itself
    if problem := view.find_difference():
        why = f"node {socket.gethostname()} of the Ray cluster {problem}"
        if job.folder.is_dir():
            Diary(job.folder, name)(Note("broken", why))
            return
        raise CompatbenchError(why)
    work(job, name, device)


def _connect(compute: Compute, sockets: Path) -> None:
    """Connects to a Ray cluster; by default to one of this machine, which ends with the run."""
    import ray

    where = compute.address or os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Until Ray ends this process, if it loses the head while it connects; by default a minute.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "30")
    inherited = {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}
    settings = {"include_dashboard": False, "_temp_dir": str(sockets)} if where == "local" else {}
    try:
        if ":" in where:  # Ray itself would try for minutes
            host, _, port = where.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
        ray.init(
            where,
            log_to_driver=False,
            # BLAS reads its thread count when it is loaded, before any of our code runs.
            runtime_env={"env_vars": {**inherited, "OMP_NUM_THREADS": str(compute.threads)}},
            **settings,
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


def _count_workers(threads: int, gpus: float) -> int:
    """How many workers the living nodes hold; of parts that leave a rest, some may have to wait."""
    import ray

    workers = 0
    for has in (node["Resources"] for node in ray.nodes() if node["Alive"]):
        room = [has.get("CPU", 0) / threads]
        if gpus:
            room.append(has.get("GPU", 0) / gpus + 1e-9)
        workers += int(min(room))
    return workers
