"""Runs what is left of a plan: cells in order, on this machine or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from compatbench.data.cache_files import default_cache_folder
from compatbench.engine.cell import Cell, FailureKind
from compatbench.engine.costs import TimeEstimate
from compatbench.engine.execute.executors import ExecutorOptions, check_device, open_executor
from compatbench.engine.execute.settings import Event, Settings
from compatbench.engine.execute.shards import Shard, agree_on_means, divide
from compatbench.engine.failures import KINDS
from compatbench.engine.plan import Plan
from compatbench.errors import CompatbenchError

# Operations a second of a core of these years. Only how cells compare matters for their order
# and for shards, which must be the same on every machine.
RATE = 5e10
LEAST_SECONDS = 1e-3


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
        address: of a Ray cluster, ``HOST:PORT`` or ``auto``.
        gpus_per_cell: GPUs of each worker on Ray.
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


def run_plan(
    plan: Plan,
    compute: Compute,
    on_start: Callable[[Plan, int], object] = lambda plan, jobs: None,
    on_event: Callable[[Event], object] = lambda event: None,
) -> tuple[tuple[Cell, str], ...]:
    """Runs the cells of a plan that are not finished; one that fails does not stop the others.

    Args:
        on_start: is given the plan and the number of workers before the first cell.
        on_event: is given every event of a cell.

    Returns:
        The cells that failed, each with its error.

    Raises:
        CompatbenchError: broken input, a device or cluster that cannot be used, or a store that
            cannot be written. What was measured before is kept.
    """
    options = ExecutorOptions(
        compute.executor, compute.jobs, compute.address, compute.gpus_per_cell
    )
    if not plan.to_do:
        check_device(options, compute.device)
        on_start(plan, 0)
        return ()
    failures: list[tuple[Cell, str]] = []

    def note(event: Event) -> None:
        if event.kind == "finished" and event.error:
            failures.append((event.cell, event.error))
        on_event(event)

    estimate = TimeEstimate(plan.matrix, RATE, plan.seconds_by_method)
    with open_executor(options, compute.device, compute.threads) as executor:
        on_start(plan, executor.jobs)
        settings = Settings(
            store=plan.store.folder,
            cache=default_cache_folder(),
            device=executor.device,
            threads=compute.threads,
            memory_budget=compute.memory_budget,
            timeout=compute.timeout,
            retry=compute.retry,
        )
        cells = [item.cell for item in plan.to_do]
        seconds = lambda cell: max(estimate.cell(cell), LEAST_SECONDS)  # noqa: E731
        executor.run(cells, settings, seconds, note)
    return tuple(failures)


def take_shard(plan: Plan, shard: Shard, *, keep: bool = True) -> Plan:
    """The plan with the cells of one shard to run.

    Args:
        keep: whether the store notes how the cells were divided, so that other jobs agree.

    Raises:
        CompatbenchError: the store cannot be written.
    """
    cells = [item.cell for item in plan.planned]
    means = agree_on_means(plan.store, cells, shard.count, plan.seconds_by_method, keep=keep)
    estimate = TimeEstimate(plan.matrix, RATE, means)
    seconds = [max(estimate.cell(cell), LEAST_SECONDS) for cell in cells]
    mine = divide(cells, seconds, shard.count)[shard.index - 1]
    return replace(plan, shard=frozenset(cell.key for cell in mine))
