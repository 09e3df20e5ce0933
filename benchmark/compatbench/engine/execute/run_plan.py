"""Runs what is left of a plan: cells in order, on this machine or on a cluster."""

from __future__ import annotations

from collections.abc import Callable

from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import development_tasks
from compatbench.engine.cell import Cell
from compatbench.engine.compute import Compute
from compatbench.engine.execute.events import Event
from compatbench.engine.execute.local import run_here
from compatbench.engine.execute.loop import Job
from compatbench.engine.order import longest_first, order_cells
from compatbench.engine.plan import Plan
from compatbench.files.scratch import remove_left_over


def run_plan(
    plan: Plan,
    compute: Compute,
    on_start: Callable[[Plan, int], object] = lambda plan, jobs: None,
    on_event: Callable[[Event], object] = lambda event: None,
) -> tuple[tuple[Cell, str], ...]:
    """Run the cells of a plan that are not finished; one that fails does not stop the others.

    Callbacks and errors are those of ``compatbench.run``. Returns the cells that failed, each
    with its error; those whose images are broken first.
    """
    compute.check()
    remove_left_over()
    broken = tuple((cell, cell.broken) for cell in plan.broken)
    if not plan.to_do:
        on_start(plan, 0)
        return broken
    failures: list[tuple[Cell, str]] = list(broken)

    def note(event: Event) -> None:
        if event.kind == "finished" and event.error:
            failures.append((event.cell, event.error))
        on_event(event)

    if compute.executor == "local":
        last, workers = development_tasks(plan.suite), compute.count_workers()
        ordered = order_cells(plan.to_do, plan.pace.seconds, last, workers)
    else:
        ordered = longest_first(plan.to_do, plan.pace.seconds)
    # Workers elsewhere have current folders of their own.
    store, cache = plan.store.folder.absolute(), default_cache_folder().absolute()
    job = Job(ordered, store, cache, compute)
    if compute.executor == "local":
        on_start(plan, compute.count_workers())
        run_here(job, note)
    else:
        from compatbench.engine.execute.on_ray import run_on_ray

        run_on_ray(job, note, lambda workers: on_start(plan, workers))
    return tuple(failures)
