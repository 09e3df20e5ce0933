"""Runs cells on a Ray cluster: the same cells, events, store and records as on one machine.

A method's error is a record, as on one machine. The death of an actor or of its node is no result:
the cell is run again, on a node where it has not died if any other has workers.
"""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Thread
from typing import Any, cast

import ray
from ray.exceptions import RayError, RayTaskError

from compatbench.engine.cell import Cell
from compatbench.engine.execute.cell_queue import CellQueue, longest_first
from compatbench.engine.execute.device import resolve_device
from compatbench.engine.execute.ray_cluster import (
    Share,
    View,
    count_workers,
    find_difference,
    living_nodes,
    shared_view,
)
from compatbench.engine.execute.scheduler import (
    Backend,
    Message,
    Scheduler,
    WorkerHandle,
    WorkerLost,
)
from compatbench.engine.execute.settings import Event, OnEvent, Settings
from compatbench.engine.failures import DIED, Failure
from compatbench.engine.worker import make_worker, run_cell
from compatbench.errors import CompatbenchError, CompatbenchWarning

# How often a cell may lose its worker. A cell can kill its process, and hardly its node.
MOST_DEATHS = 3
MOST_LOST_NODES = 10
MOST_FAILED_STARTS = 5  # in a row
POLL_SECONDS = 0.5
LOOK_SECONDS = 1.0  # between looks at which nodes there are


def run_cells_on_ray(
    cells: Sequence[Cell],
    settings: Settings,
    share: Share,
    on_event: OnEvent,
    seconds: Callable[[Cell], float] = lambda _: 1.0,
    jobs: int | None = None,
) -> None:
    """Runs cells on the cluster that is connected; reports events as ``run_cells`` does.

    Args:
        seconds: that a cell takes, estimated; only the order depends on it.
        jobs: workers at most; None is as many as the cluster holds, while it grows and shrinks.
    """
    # Workers have current folders of their own.
    settings = replace(settings, store=settings.store.absolute(), cache=settings.cache.absolute())
    queue = CellQueue(longest_first(cells, seconds), seconds)
    with shared_view(settings, cells) as view:
        backend = RayBackend(settings, share, view, jobs)
        Scheduler(queue, backend, settings, on_event).run()


class CellActor:
    """Runs cells one after the other, keeping backbones and features in memory between them.

    Ray starts it in a process of its own, in which only the devices that it was given can be
    seen, and gives them to others once that process is gone.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def start(self, view: View) -> tuple[str, str]:
        """Gets ready.

        Returns:
            The id of the node that this actor runs on, and why it can run no cell there: empty
            if it can.
        """
        node = ray.get_runtime_context().get_node_id()
        with suppress(OSError):
            os.chdir(view.folder)  # as processes do that the driver starts itself
        try:
            resolve_device(self._settings.device)
        except CompatbenchError as error:
            return node, f"lacks the device: {error}"
        problem = find_difference(view)
        if not problem:
            self._worker = make_worker(self._settings)
        return node, problem

    def run(self, cell: Cell) -> Iterator[Message]:
        """Runs a cell and streams its events; the last one ends the attempt."""
        messages: SimpleQueue[Message | BaseException | None] = SimpleQueue()
        warnings.showwarning = lambda message, category, *_: (
            messages.put(str(message)) if category is CompatbenchWarning else None
        )

        def work() -> None:
            try:
                messages.put(run_cell(self._worker, cell, messages.put))
            except BaseException as error:
                messages.put(error)
            finally:
                messages.put(None)

        Thread(target=work, daemon=True).start()
        for message in iter(messages.get, None):
            if isinstance(message, BaseException) and not isinstance(message, CompatbenchError):
                raise message
            yield message


@dataclass(eq=False, kw_only=True)
class RayWorker(WorkerHandle):
    """An actor.

    Attributes:
        answer: what it owes: the result of its start, or the messages of its cell.
        node: the id of the node it runs on; empty until it has started.
        unfit: it can run no cell there, and is kept so that no other takes its place.
    """

    actor: Any
    answer: Any
    ready: bool = False
    node: str = ""
    unfit: bool = False


class RayBackend(Backend[RayWorker]):
    """Actors on a Ray cluster; a dead one is replaced where there is room."""

    def __init__(self, settings: Settings, share: Share, view: View, jobs: int | None) -> None:
        super().__init__()
        self._settings = settings
        self._share = share
        self._view = view
        self._jobs = jobs
        self._deaths: Counter[tuple[str, bool]] = Counter()
        self._died_on: dict[str, set[str]] = defaultdict(set)
        self._problems: list[str] = []  # of nodes that can run no cell
        self._failed_starts = 0
        self._next_look = 0.0

    def add_workers(self, waiting: int) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        room = count_workers(self._share)
        unfit = sum(worker.unfit for worker in self.workers)
        if unfit and unfit >= room:
            raise CompatbenchError(f"no node can run cells: {self._problems[0]}")
        if self._jobs is not None:
            room = self._jobs + unfit
        busy = unfit + sum(worker.cell is not None for worker in self.workers)
        for _ in range(min(room, busy + waiting) - len(self.workers)):
            self.workers.append(self._start())

    def start_cell(self, worker: RayWorker, cell: Cell) -> None:
        worker.answer = worker.actor.run.options(num_returns="streaming").remote(cell)

    def receive(self, seconds: float | None) -> Iterator[tuple[RayWorker, Message]]:
        workers = {worker.answer: worker for worker in self.workers if worker.answer is not None}
        if not workers:
            time.sleep(POLL_SECONDS)
            return
        ready, _ = ray.wait(list(workers), num_returns=1, timeout=min(seconds or 1, POLL_SECONDS))
        for answer in ready:
            worker = workers[answer]
            if worker.cell is None:
                self._finish_start(worker)
            else:
                yield worker, self._read_message(worker, worker.cell)

    def may_run(self, worker: RayWorker, cell: Cell) -> bool:
        """Whether a worker may run a cell that was lost: elsewhere, while there is elsewhere."""
        untried = {w.node for w in self.workers if w.ready} - self._died_on[cell.key]
        return worker.node in untried or not untried

    def remove(self, worker: RayWorker) -> None:
        self.workers.remove(worker)
        ray.kill(worker.actor)

    def _start(self) -> RayWorker:
        actor_class: Any = ray.remote(CellActor)
        actor = actor_class.options(
            num_cpus=self._share.cpus,
            num_gpus=self._share.gpus,
            max_restarts=0,  # another is started, which may be elsewhere
            scheduling_strategy="SPREAD",
        ).remote(self._settings)
        return RayWorker(actor=actor, answer=actor.start.remote(self._view))

    def _finish_start(self, worker: RayWorker) -> None:
        try:
            worker.node, problem = ray.get(worker.answer)
        except RayError as error:
            self.remove(worker)
            self._failed_starts += 1
            if self._failed_starts == MOST_FAILED_STARTS:
                raise CompatbenchError(
                    f"no worker starts on the Ray cluster: {_describe_cause(error)}"
                ) from None
            return
        self._failed_starts = 0
        worker.answer, worker.ready, worker.unfit = None, not problem, bool(problem)
        if problem:
            about = living_nodes().get(worker.node, {"NodeManagerHostname": "that is gone"})
            host = f"{about['NodeManagerHostname']} ({worker.node[:8]})"
            problem = f"node {host} {problem}"
            if problem not in self._problems:
                self._problems.append(problem)
                warnings.warn(f"{problem}. It runs no cell", CompatbenchWarning, stacklevel=2)

    def _read_message(self, worker: RayWorker, cell: Cell) -> Message:
        try:
            message = cast(Message, ray.get(next(worker.answer)))
        except RayTaskError as error:
            # Not the method's, which is a record, but the harness's own; it would come again.
            return WorkerLost(Failure(_describe_cause(error)))
        except RayError:
            return self._count_death(worker, cell)
        if isinstance(message, Event) and message.ends_attempt:
            worker.answer = None
        return message

    def _count_death(self, worker: RayWorker, cell: Cell) -> WorkerLost:
        """A worker died: its cell is run again, unless it has lost too many."""
        node_lives = worker.node in living_nodes()
        self._died_on[cell.key].add(worker.node)
        self._deaths[cell.key, node_lives] += 1
        deaths, nodes = self._deaths[cell.key, node_lives], len(self._died_on[cell.key])
        error = f"{DIED}: {'worker process died' if node_lives else 'node lost'}"
        if deaths < (MOST_DEATHS if node_lives else MOST_LOST_NODES):
            return WorkerLost(Failure(error), rerun=True)
        where = f"on {nodes} node{'s' if nodes > 1 else ''}"
        return WorkerLost(Failure(f"{error} {deaths} times, {where}"))


def _describe_cause(error: RayError) -> str:
    """What went wrong on the other side, in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # Ray gives the other side's trace, which ends with the error.
    return lines[-1 if isinstance(error, RayTaskError) else 0]
