"""Runs what is left of a plan: cells in order, on this machine or on a cluster."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from compatbench.data.cache_files import default_cache_folder
from compatbench.engine.cell import Cell, FailureKind
from compatbench.engine.execute.cell_queue import order_cells
from compatbench.engine.execute.device import count_cores, resolve_device
from compatbench.engine.execute.local import run_cells
from compatbench.engine.execute.settings import Event, Settings
from compatbench.engine.execute.shards import estimate_seconds
from compatbench.engine.failures import KINDS
from compatbench.engine.plan import Plan
from compatbench.errors import CompatbenchError

# What a field of ``Compute`` may be, where it is not None.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "executor": (lambda name: name in ("local", "ray"), "choose from local, ray"),
    "jobs": (lambda count: count >= 1, "give a number of at least 1"),
    "threads": (lambda count: count >= 1, "give a number of at least 1"),
    "memory_budget": (lambda size: size > 0, "give a number of bytes above 0"),
    "timeout": (lambda seconds: seconds > 0, "give a number of seconds above 0"),
    "retry": (lambda kinds: set(kinds) <= set(KINDS), f"choose kinds from {', '.join(KINDS)}"),
    "gpus_per_cell": (lambda share: share >= 0, "give a number of at least 0"),
}


@dataclass(frozen=True)
class Compute:
    """Where and how cells are run.

    Attributes:
        executor: processes on this machine, or workers on a Ray cluster.
        device: ``auto`` is a GPU if there is one.
        jobs: workers; None is one per core, one on a GPU, and on Ray all that fit.
        threads: of each worker.
        memory_budget: bytes for the activations of each worker's text tower; None is half of
            what is free.
        timeout: seconds after which an attempt at a cell is ended; the encoding of its images
            does not count.
        retry: how often a cell is tried again after each kind of failure.
        address: of a Ray cluster, ``HOST:PORT`` or ``auto``; None is ``RAY_ADDRESS``, or this
            machine alone.
        gpus_per_cell: GPUs of each worker on Ray; None is one, and none on processors.
    """

    executor: Literal["local", "ray"] = "local"
    device: str = "auto"
    jobs: int | None = None
    threads: int = 1
    memory_budget: int | None = None
    timeout: float | None = None
    retry: Mapping[FailureKind, int] = field(default_factory=dict)
    address: str | None = None
    gpus_per_cell: float | None = None

    def __post_init__(self) -> None:
        for name, (is_allowed, rule) in _RULES.items():
            value = getattr(self, name)
            if value is not None and not is_allowed(value):
                raise CompatbenchError(f"{name} {value!r}: {rule}")

    def check(self) -> None:
        """Finds out whether this machine has what is asked for."""
        if self.executor == "local":
            resolve_device(self.device)
            if self.address is not None or self.gpus_per_cell is not None:
                raise CompatbenchError(
                    "--address and --gpus-per-cell are for '--executor ray'; give that, too"
                )
        elif self.device not in ("auto", "cpu", "cuda"):
            raise CompatbenchError(
                f"--device '{self.device}': Ray gives every worker a device of its own; choose "
                "auto, cpu or cuda"
            )
        elif importlib.util.find_spec("ray") is None:
            raise CompatbenchError(
                "--executor ray needs Ray, which is not installed: pip install 'compatbench[ray]'"
            )


def run_plan(
    plan: Plan,
    compute: Compute,
    on_start: Callable[[Plan, int], object] = lambda plan, jobs: None,
    on_event: Callable[[Event], object] = lambda event: None,
) -> tuple[tuple[Cell, str], ...]:
    """Runs the cells of a plan that are not finished; one that fails does not stop the others.

    Callbacks and errors are those of ``compatbench.run``.

    Returns:
        The cells that failed, each with its error.
    """
    compute.check()
    if not plan.to_do:
        on_start(plan, 0)
        return ()
    failures: list[tuple[Cell, str]] = []

    def note(event: Event) -> None:
        if event.kind == "finished" and event.error:
            failures.append((event.cell, event.error))
        on_event(event)

    settings = Settings(
        store=plan.store.folder,
        cache=default_cache_folder(),
        threads=compute.threads,
        memory_budget=compute.memory_budget,
        timeout=compute.timeout,
        retry=compute.retry,
    )
    cells = [item.cell for item in plan.to_do]
    seconds = estimate_seconds(plan, plan.seconds_by_method)
    if compute.executor == "local":
        device = resolve_device(compute.device)
        jobs = compute.jobs or (count_cores() if device == "cpu" else 1)
        on_start(plan, jobs)
        settings = replace(settings, device=device)
        run_cells(order_cells(cells, seconds), settings, jobs, note)
    else:
        from compatbench.engine.execute.ray_backend import run_cells_on_ray
        from compatbench.engine.execute.ray_cluster import connect, require_workers, resolve_share

        with connect(compute.address, compute.threads):
            device, share = resolve_share(compute.device, compute.gpus_per_cell, compute.threads)
            workers = require_workers(share)
            on_start(plan, compute.jobs or workers)
            settings = replace(settings, device=device)
            run_cells_on_ray(cells, settings, share, note, seconds, compute.jobs)
    return tuple(failures)
