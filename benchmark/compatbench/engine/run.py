"""Runs what is left of a plan: cells in order, on this machine or on a cluster."""

from __future__ import annotations

from collections.abc import Callable

from compatbench.data.cache_files import default_cache_folder
from compatbench.engine.cell import Cell
from compatbench.engine.execute.cell_queue import order_cells
from compatbench.engine.execute.compute import Compute, Event, Settings
from compatbench.engine.execute.local import run_cells
from compatbench.engine.execute.shards import estimate_seconds
from compatbench.engine.plan import Plan
from compatbench.files.scratch import remove_left_over


def run_plan(
    plan: Plan,
    compute: Compute,
    on_start: Callable[[Plan, int], object] = lambda plan, jobs: None,
    on_event: Callable[[Event], object] = lambda event: None,
) -> tuple[tuple[Cell, str], ...]:
    """Runs the cells of a plan that are not finished; one that fails does not stop the others.

    Callbacks and errors are those of ``compatbench.run``. Returns the cells that failed, each
    with its error; those whose images are broken first.
    """
    compute.check()
    remove_left_over()
    if not plan.to_do:
        on_start(plan, 0)
        return plan.broken
    failures: list[tuple[Cell, str]] = list(plan.broken)

    def note(event: Event) -> None:
        if event.kind == "finished" and event.error:
            failures.append((event.cell, event.error))
        on_event(event)

    settings = Settings(plan.store.folder, default_cache_folder(), compute)
    cells = [item.cell for item in plan.to_do]
    seconds = estimate_seconds(plan, plan.finished)
    if compute.executor == "local":
        on_start(plan, compute.count_workers())
        run_cells(order_cells(cells, seconds), settings, note)
    else:
        from compatbench.engine.execute.ray_driver import run_cells_on_ray

        run_cells_on_ray(cells, settings, seconds, lambda jobs: on_start(plan, jobs), note)
    return tuple(failures)
