"""Where cells run: in processes on this machine, or on a Ray cluster."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from compatbench.engine.cell import Cell
from compatbench.engine.execute.settings import OnEvent, Settings
from compatbench.errors import CompatbenchError

Seconds = Callable[[Cell], float]


@dataclass(frozen=True)
class ExecutorOptions:
    """Where cells are to run.

    Attributes:
        jobs: cells side by side; None is what the machine, or the cluster, holds.
        address: of a Ray cluster; None is ``RAY_ADDRESS``, or this machine alone.
        gpus_per_cell: of each Ray worker; None is one, and none on processors.
    """

    name: Literal["local", "ray"] = "local"
    jobs: int | None = None
    address: str | None = None
    gpus_per_cell: float | None = None


@dataclass(frozen=True)
class Executor:
    """An executor that is ready.

    Attributes:
        device: of every worker.
        jobs: cells that run side by side.
        run: runs cells; their estimated seconds decide the order and nothing else.
    """

    device: str
    jobs: int
    run: Callable[[Sequence[Cell], Settings, Seconds, OnEvent], None]


def check_device(options: ExecutorOptions, device: str) -> None:
    """Checks the name of a device, whether there is anything to run or not.

    Raises:
        CompatbenchError: it is not on this machine, or Ray cannot give it.
    """
    from compatbench.engine.execute.device import resolve_device

    if options.name == "local":
        resolve_device(device)
    elif device not in ("auto", "cpu", "cuda"):
        raise CompatbenchError(
            f"--device '{device}': Ray gives every worker a device of its own; choose auto, cpu or "
            "cuda"
        )


@contextmanager
def open_executor(options: ExecutorOptions, device: str, threads: int) -> Iterator[Executor]:
    """Gets an executor ready, for the time of a run.

    Raises:
        CompatbenchError: a device that is not there, an option of the other executor, or no
            cluster.
    """
    check_device(options, device)
    if options.name == "local":
        yield _open_local(options, device)
        return
    if importlib.util.find_spec("ray") is None:
        raise CompatbenchError(
            "--executor ray needs Ray, which is not installed: pip install 'compatbench[ray]'"
        )
    from compatbench.engine.execute.ray_backend import run_cells_on_ray
    from compatbench.engine.execute.ray_cluster import connect, require_workers, resolve_share

    with connect(options.address, threads):
        device, share = resolve_share(device, options.gpus_per_cell, threads)
        workers = require_workers(share)

        def run(cells: Sequence[Cell], settings: Settings, seconds: Seconds, on: OnEvent) -> None:
            run_cells_on_ray(cells, settings, share, on, seconds, options.jobs)

        yield Executor(device, options.jobs or workers, run)


def _open_local(options: ExecutorOptions, device: str) -> Executor:
    from compatbench.engine.execute.device import count_cores, resolve_device
    from compatbench.engine.execute.local import run_cells
    from compatbench.engine.execute.order import order_cells

    if options.address is not None or options.gpus_per_cell is not None:
        raise CompatbenchError(
            "--address and --gpus-per-cell are for '--executor ray'; give that, too"
        )
    device = resolve_device(device)
    jobs = options.jobs or (count_cores() if device == "cpu" else 1)

    def run(cells: Sequence[Cell], settings: Settings, seconds: Seconds, on: OnEvent) -> None:
        run_cells(order_cells(cells, seconds), settings, jobs, on)

    return Executor(device, jobs, run)
