"""Runs cells on a Ray cluster: the same cells, events, store and records as on one machine.

The driver hands cells to actors one by one. A method's error is a record, as ever. The death of
an actor or of its node is no result: the cell is run again, on another node if there is one.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import ray
from ray.exceptions import RayError, RayTaskError

from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.run.cell import Cell
from compatbench.run.executors import Event, OnEvent, Settings
from compatbench.run.fit import describe_cell
from compatbench.run.ray_batches import Batches
from compatbench.run.ray_nodes import (
    Share,
    View,
    count_workers,
    describe_cause,
    living_nodes,
    remove_tokens,
    write_view,
)
from compatbench.run.ray_worker import CellActor, Message
from compatbench.run.store import RunStore

# How often a cell may lose its worker. A cell can kill its process, and hardly its node.
MOST_DEATHS = 3
MOST_LOST_NODES = 10
MOST_FAILED_STARTS = 5  # in a row
TICK = 1.0  # seconds between looks at which nodes there are
PATIENCE = 120.0  # seconds without any worker, after which the user is told


def run_cells_on_ray(
    cells: Sequence[Cell],
    settings: Settings,
    share: Share,
    on_event: OnEvent,
    cost: Callable[[Cell], float] = lambda _: 1.0,
    jobs: int | None = None,
) -> None:
    """Runs cells on the cluster that is connected; as ``run_cells``, it tells what happens.

    Args:
        cost: seconds of a cell, estimated; the order depends on it, and nothing else.
        jobs: workers at most; None is as many as the cluster holds, while it grows and shrinks.

    Raises:
        CompatbenchError: the input is broken, the store cannot be written, or no node sees it as
            the driver does; a node that does not is warned of. What was measured before is kept.
    """
    # Workers have current folders of their own.
    settings = replace(settings, store=settings.store.absolute(), cache=settings.cache.absolute())
    view = write_view(settings, cells)
    pool = _Pool(Batches(cells, cost), settings, share, view, jobs)
    try:
        for event in pool.run():
            on_event(event)
    finally:
        pool.close()
        remove_tokens(view)


@dataclass(eq=False)
class _Worker:
    """An actor.

    Attributes:
        starting: becomes the answer of ``CellActor.start``.
        node: the id of the node it runs on; empty until it has started.
        unfit: it can run nothing there, and is kept so that no other takes its place.
        cell: at work, if any.
        messages: of that cell.
    """

    actor: Any
    starting: Any
    node: str = ""
    unfit: bool = False
    cell: Cell | None = None
    messages: Any = None

    @property
    def fit(self) -> bool:
        return bool(self.node) and not self.unfit

    @property
    def answer(self) -> Any:
        """What it owes, if anything."""
        return self.messages if self.node else self.starting


class _Pool:
    """Actors, each with at most one cell; a dead one is replaced where there is room."""

    def __init__(
        self,
        batches: Batches[Cell],
        settings: Settings,
        share: Share,
        view: View,
        jobs: int | None,
    ) -> None:
        self._batches = batches
        self._settings = settings
        self._share = share
        self._view = view
        self._jobs = jobs
        self._workers: list[_Worker] = []
        self._deaths: Counter[tuple[str, bool]] = Counter()
        self._died_on: dict[str, set[str]] = defaultdict(set)
        self._warned: dict[str, None] = {}
        self._failed_starts = 0
        self._next_look = 0.0
        self._patient_until = time.monotonic() + PATIENCE

    def run(self) -> Iterator[Event]:
        while len(self._batches) or any(worker.cell for worker in self._workers):
            self._staff()
            yield from self._hand_out()
            awaited = {w.answer: w for w in self._workers if w.answer is not None}
            if not awaited:
                time.sleep(TICK)
                continue
            ready, _ = ray.wait(list(awaited), num_returns=1, timeout=TICK)
            for answer in ready:
                worker = awaited[answer]
                if worker.cell is None:
                    self._welcome(worker)
                else:
                    yield from self._hear(worker, worker.cell)

    def close(self) -> None:
        """Ends all workers; a cell at work is lost, and run again by the same command."""
        for worker in list(self._workers):
            self._dismiss(worker)

    def _staff(self) -> None:
        """Starts workers where the cluster has room for them."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + TICK
        room = count_workers(self._share)
        unfit = sum(worker.unfit for worker in self._workers)
        if unfit and unfit >= room:
            raise CompatbenchError(f"no node can run cells: {next(iter(self._warned))}")
        if self._jobs is not None:
            room = self._jobs + unfit
        busy = unfit + sum(worker.cell is not None for worker in self._workers)
        for _ in range(min(room, busy + len(self._batches)) - len(self._workers)):
            actor = _actor_class(self._share).remote(self._settings)
            self._workers.append(_Worker(actor, actor.start.remote(self._view)))
        if any(worker.fit for worker in self._workers):
            self._patient_until = now + PATIENCE
        elif now > self._patient_until:
            self._patient_until = float("inf")
            _warn(f"no worker yet: is {self._share} free on the cluster? Waiting for it")

    def _hand_out(self) -> Iterator[Event]:
        for worker in self._workers:
            if worker.fit and worker.cell is None:
                cell = self._batches.take(worker, lambda cell, w=worker: self._may_run(w, cell))
                if cell is not None:
                    run = worker.actor.run.options(num_returns="streaming")
                    worker.cell, worker.messages = cell, run.remote(cell)
                    yield Event("started", cell)

    def _may_run(self, worker: _Worker, cell: Cell) -> bool:
        """Whether a worker may run a cell that was lost: elsewhere, while there is elsewhere."""
        untried = {w.node for w in self._workers if w.fit} - self._died_on[cell.key]
        return worker.node in untried or not untried

    def _welcome(self, worker: _Worker) -> None:
        """Hears whether a worker has started."""
        try:
            worker.node, problem = ray.get(worker.starting)
        except RayError as error:
            self._dismiss(worker)
            self._failed_starts += 1
            if self._failed_starts == MOST_FAILED_STARTS:
                raise CompatbenchError(
                    f"no worker starts on the Ray cluster: {describe_cause(error)}"
                ) from None
            return
        self._failed_starts = 0
        worker.unfit = bool(problem)
        problem = f"node {_describe_node(worker.node)} {problem}"
        if worker.unfit and problem not in self._warned:
            self._warned[problem] = None
            _warn(f"{problem}. It runs no cell")

    def _hear(self, worker: _Worker, cell: Cell) -> Iterator[Event]:
        """Hears what a worker has to say of its cell."""
        try:
            message = cast(Message, ray.get(next(worker.messages)))
        except RayTaskError as error:
            # Not the method's, which is a record, but the harness's own; it would come again.
            message = self._fail(cell, describe_cause(error))
        except RayError:
            yield from self._bury(worker, cell)
            return
        if isinstance(message, CompatbenchError):
            raise message
        if isinstance(message, str):
            _warn(message)
            return
        if message.kind == "finished":
            worker.cell = worker.messages = None
        yield message

    def _bury(self, worker: _Worker, cell: Cell) -> Iterator[Event]:
        """A worker died: its cell is run again, unless it has killed too many."""
        self._dismiss(worker)
        self._died_on[cell.key].add(worker.node)
        node_lives = worker.node in living_nodes()
        self._deaths[cell.key, node_lives] += 1
        deaths = self._deaths[cell.key, node_lives]
        if deaths < (MOST_DEATHS if node_lives else MOST_LOST_NODES):
            self._batches.give_back(cell)
            return
        what = "worker process died" if node_lives else "node lost"
        yield self._fail(cell, f"{what}: {deaths} times, on {len(self._died_on[cell.key])} nodes")

    def _fail(self, cell: Cell, error: str) -> Event:
        """A cell that cannot be run becomes a failed record, unless its fit is kept."""
        store = RunStore(self._settings.store)
        if store.read(cell.key) is None:
            store.write(describe_cell(cell, error=error))
        return Event("finished", cell, error=error)

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self._batches.leave(worker)
        ray.kill(worker.actor)


def _actor_class(share: Share) -> Any:
    return ray.remote(CellActor).options(
        num_cpus=share.cpus,
        num_gpus=share.gpus,
        max_restarts=0,  # the pool starts another, which may be elsewhere
        scheduling_strategy="SPREAD",
    )


def _describe_node(node: str) -> str:
    about = living_nodes().get(node)
    return f"{about['NodeManagerHostname']} ({node[:8]})" if about else node[:8]


def _warn(message: str) -> None:
    warnings.warn(message, CompatbenchWarning, stacklevel=3)
