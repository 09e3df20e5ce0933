"""Where ``run`` runs its cells: on this machine, or on a Ray cluster."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial

from compatbench.cli.progress import estimate_seconds
from compatbench.engine.cell import Cell
from compatbench.engine.execute.executors import OnEvent, Settings, run_cells
from compatbench.errors import CompatbenchError

LEAST_SECONDS = 1e-3  # means are rounded, and may be 0

RunCells = Callable[[Sequence[Cell], Settings, OnEvent], None]


class Executor(str, Enum):
    """What can run cells."""

    local = "local"
    ray = "ray"


@dataclass(frozen=True)
class Place:
    """An executor that is ready.

    Attributes:
        device: of every worker.
        jobs: cells that are run side by side.
        run: runs cells there.
    """

    device: str
    jobs: int
    run: RunCells


@dataclass(frozen=True)
class RayOptions:
    """What is said of a Ray cluster.

    Attributes:
        address: of a cluster; None is ``RAY_ADDRESS``, or this machine alone.
        gpus_per_cell: None is one, and none on processors.
    """

    address: str | None = None
    gpus_per_cell: float | None = None


@contextmanager
def open_executor(
    executor: Executor,
    options: RayOptions,
    device: str,
    threads: int,
    jobs: int | None,
    means: dict[str, float],
) -> Iterator[Place]:
    """Gets an executor ready, for the time of a run.

    Args:
        jobs: cells side by side; None is what the machine, or the cluster, holds.
        means: mean seconds of the cells of each method, if known.

    Raises:
        CompatbenchError: a device that cannot be used, an option of the other executor, or no
            cluster.
    """
    if executor is Executor.local:
        if options != RayOptions():
            raise CompatbenchError(
                "--address and --gpus-per-cell are for '--executor ray'; say that, too"
            )
        device = resolve_device(device)
        jobs = jobs or (cores() if device == "cpu" else 1)
        yield Place(device, jobs, partial(_run_here, jobs=jobs))
        return
    if importlib.util.find_spec("ray") is None:
        raise CompatbenchError(
            "--executor ray needs Ray, which is not installed: pip install 'compatbench[ray]'"
        )
    from compatbench.engine.execute.ray_cluster import connect, require_workers, resolve_share
    from compatbench.engine.execute.ray_executor import run_cells_on_ray

    with connect(options.address, threads):
        device, share = resolve_share(device, options.gpus_per_cell, threads)
        workers = require_workers(share)

        def run(cells: Sequence[Cell], settings: Settings, on_event: OnEvent) -> None:
            run_cells_on_ray(
                cells,
                settings,
                share,
                on_event,
                cost=lambda cell: max(estimate_seconds([cell], means, 1), LEAST_SECONDS),
                jobs=jobs,
            )

        yield Place(device, jobs or workers, run)


def _run_here(cells: Sequence[Cell], settings: Settings, on_event: OnEvent, jobs: int) -> None:
    run_cells(cells, settings, jobs, on_event)


def resolve_device(device: str) -> str:
    """The device that a name means; ``auto`` is a GPU if there is one.

    Raises:
        CompatbenchError: it cannot be used here.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CompatbenchError(
            f"--device '{device}' cannot be used here: {str(error).splitlines()[0]}"
        ) from None
    return device


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
