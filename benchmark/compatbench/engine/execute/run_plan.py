"""Run the unfinished cells of a plan, in order, with a crew of this machine or of a cluster."""

from __future__ import annotations

from collections.abc import Callable

from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import development_tasks
from compatbench.engine.cell import Cell
from compatbench.engine.compute import Compute
from compatbench.engine.execute.dispatcher import Dispatcher, Job
from compatbench.engine.execute.events import Event, OnEvent
from compatbench.engine.execute.local import make_crew
from compatbench.engine.execute.planning import Planner
from compatbench.engine.order import longest_first, order_cells
from compatbench.engine.plan import Plan
from compatbench.files.scratch import remove_left_over


def run_plan(
    plan: Plan,
    compute: Compute,
    on_start: Callable[[Plan, int], object] = lambda plan, jobs: None,
    on_event: OnEvent = lambda event: None,
    planner: Planner | None = None,
) -> tuple[tuple[Cell, str], ...]:
    """Run the cells of a plan that are not finished; one that fails does not stop the others.

    Callbacks and errors are those of ``compatbench.run``. The process that made the plan becomes
    the first worker of this machine.

    Returns:
        The cells that failed, each with its error; those whose images are broken first.
    """
    compute.check()
    remove_left_over()
    failures = [(cell, cell.broken) for cell in plan.broken]
    if not plan.to_do:
        on_start(plan, 0)
        return tuple(failures)

    def note(event: Event) -> None:
        if event.kind == "finished" and event.error:
            failures.append((event.cell, event.error))
        on_event(event)

    # Workers start later, when the folder may be gone: they must not make a new one.
    plan.store.open_folder()
    job = Job(
        _order_cells(plan, compute),
        # Workers elsewhere have current folders of their own.
        store=plan.store.folder.absolute(),
        cache=default_cache_folder().absolute(),
        compute=compute,
        inode=plan.store.inode,
    )
    if compute.executor != "ray":
        on_start(plan, compute.count_workers())
        run_here(job, note, planner)
    else:
        if planner is not None:
            planner.end()
        from compatbench.engine.execute.on_ray import run_on_ray  # Ray is optional

        run_on_ray(job, note, lambda workers: on_start(plan, workers))
    return tuple(failures)


def run_here(job: Job, on_event: OnEvent, planner: Planner | None = None) -> None:
    """Run the cells of a job on this machine."""
    Dispatcher(job, make_crew(job, planner), on_event).run(job.compute.count_workers())


def _order_cells(plan: Plan, compute: Compute) -> list[Cell]:
    """Return the cells to run: so that a ranking is there early, or that a cluster ends early."""
    if compute.executor == "ray":
        return longest_first(plan.to_do, plan.pace.seconds)
    last = development_tasks(plan.suite)
    return order_cells(plan.to_do, plan.pace.seconds, last, compute.count_workers())
