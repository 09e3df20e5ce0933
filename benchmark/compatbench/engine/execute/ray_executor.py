"""Runs cells on a Ray cluster: the same cells, events, store and records as on one machine.

The driver hands cells to actors one by one. A method's error is a record, as ever. The death of
an actor or of its node is no result: the cell is run again, on a node where it has not died if any
other has workers.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import cast

import ray
from ray.exceptions import RayError, RayTaskError

from compatbench.engine.cell import Cell, FailureKind
from compatbench.engine.execute.executors import POLL, Event, OnEvent, Settings
from compatbench.engine.execute.pool import STARTING
from compatbench.engine.execute.ray_batches import Batches
from compatbench.engine.execute.ray_nodes import (
    Share,
    View,
    count_workers,
    describe_cause,
    living_nodes,
    remove_tokens,
    write_view,
)
from compatbench.engine.execute.ray_worker import Message, RayWorker, start_worker
from compatbench.engine.failures import DIED, Failure, describe_timeout, kind_of, note_failure
from compatbench.engine.locks import claim
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError, CompatbenchWarning

# How often a cell may lose its worker. A cell can kill its process, and hardly its node.
MOST_DEATHS = 3
MOST_LOST_NODES = 10
MOST_FAILED_STARTS = 5  # in a row
ENDING = 10.0  # seconds that a worker may take to end, and to let go of its cell
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
        self._store = RunStore(settings.store)
        self._share = share
        self._view = view
        self._jobs = jobs
        self._workers: list[RayWorker] = []
        # Cells that other processes run, and when to look at them again.
        self._elsewhere: deque[tuple[float, Cell]] = deque()
        self._retried: Counter[tuple[str, FailureKind]] = Counter()
        self._deaths: Counter[tuple[str, bool]] = Counter()
        self._died_on: dict[str, set[str]] = defaultdict(set)
        self._warned: dict[str, None] = {}
        self._failed_starts = 0
        self._next_look = 0.0
        self._patient_until = time.monotonic() + PATIENCE

    def run(self) -> Iterator[Event]:
        while len(self._batches) or self._elsewhere or any(w.cell for w in self._workers):
            self._look_again()
            self._staff()
            self._hand_out()
            awaited = {w.answer: w for w in self._workers if w.answer is not None}
            if not awaited:
                time.sleep(POLL)
                continue
            ready, _ = ray.wait(list(awaited), num_returns=1, timeout=POLL)
            for answer in ready:
                worker = awaited[answer]
                if worker.cell is None:
                    self._welcome(worker)
                else:
                    yield from self._hear(worker, worker.cell)
            now = time.monotonic()
            for worker in list(self._workers):
                if worker.cell is not None and (worker.deadline or now) < now:
                    yield from self._end(worker, worker.cell)

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
            self._workers.append(start_worker(self._settings, self._share, self._view))
        if any(worker.fit for worker in self._workers):
            self._patient_until = now + PATIENCE
        elif now > self._patient_until:
            self._patient_until = float("inf")
            _warn(f"no worker yet: is {self._share} free on the cluster? Waiting for it")

    def _look_again(self) -> None:
        now = time.monotonic()
        while self._elsewhere and self._elsewhere[0][0] <= now:
            self._batches.give_back(self._elsewhere.popleft()[1])

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.fit and worker.cell is None:
                cell = self._batches.take(worker, lambda cell, w=worker: self._may_run(w, cell))
                if cell is not None:
                    worker.begin(cell)
                    self._set_deadline(worker, STARTING)

    def _set_deadline(self, worker: RayWorker, more: float = 0.0) -> None:
        if self._settings.timeout is not None:
            worker.deadline = time.monotonic() + self._settings.timeout + more

    def _may_run(self, worker: RayWorker, cell: Cell) -> bool:
        """Whether a worker may run a cell that was lost: elsewhere, while there is elsewhere."""
        untried = {w.node for w in self._workers if w.fit} - self._died_on[cell.key]
        return worker.node in untried or not untried

    def _welcome(self, worker: RayWorker) -> None:
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

    def _hear(self, worker: RayWorker, cell: Cell) -> Iterator[Event]:
        """Hears what a worker has to say of its cell."""
        try:
            message = cast(Message, ray.get(next(worker.messages)))
        except RayTaskError as error:
            # Not the method's, which is a record, but the harness's own; it would come again.
            yield from self._fail(worker, cell, Failure(describe_cause(error)))
            return
        except RayError:
            yield from self._lose(worker, cell)
            return
        if isinstance(message, CompatbenchError):
            raise message
        if isinstance(message, str):
            _warn(message)
            return
        if message.kind in ("started", "encoding"):
            self._set_deadline(worker)
        elif message.kind in ("waiting", "finished"):
            worker.cell = worker.messages = worker.deadline = None
            message = self._settle(message)
        yield message

    def _settle(self, event: Event) -> Event:
        """The end of an attempt, which is that of the cell unless it is tried again."""
        if event.kind == "waiting":
            self._elsewhere.append((time.monotonic() + POLL, event.cell))
            return event
        if not event.error:
            return event
        tried = event.cell.key, kind_of(event.error)
        if self._retried[tried] >= self._settings.retry.get(tried[1], 0):
            return event
        self._retried[tried] += 1
        return self._try_again(event.cell, event.error)

    def _try_again(self, cell: Cell, why: str) -> Event:
        self._batches.give_back(cell)
        return Event("retried", cell, error=why)

    def _lose(self, worker: RayWorker, cell: Cell) -> Iterator[Event]:
        """A worker died: its cell is run again, unless it has lost too many."""
        node_lives = worker.node in living_nodes()
        self._died_on[cell.key].add(worker.node)
        self._deaths[cell.key, node_lives] += 1
        deaths = self._deaths[cell.key, node_lives]
        error = f"{DIED}: {'worker process died' if node_lives else 'node lost'}"
        if deaths < (MOST_DEATHS if node_lives else MOST_LOST_NODES):
            self._dismiss(worker)
            yield self._try_again(cell, error)
            return
        nodes = len(self._died_on[cell.key])
        where = f"on {nodes} node{'s' if nodes > 1 else ''}"
        yield from self._fail(worker, cell, Failure(f"{error} {deaths} times, {where}"))

    def _end(self, worker: RayWorker, cell: Cell) -> Iterator[Event]:
        """Ends a worker whose cell takes too long."""
        assert self._settings.timeout is not None
        yield from self._fail(worker, cell, describe_timeout(self._settings.timeout, ()))

    def _fail(self, worker: RayWorker, cell: Cell, failure: Failure) -> Iterator[Event]:
        """A worker's cell failed with it: that becomes a record, unless the cell is done."""
        self._dismiss(worker)
        patience = time.monotonic() + ENDING
        while True:
            with claim(self._store, cell.key) as mine:
                noted = note_failure(self._store, cell, failure) if mine.held else False
            if mine.held:
                yield self._settle(Event("finished", cell, error=failure.error if noted else ""))
                return
            if time.monotonic() > patience:  # another process has taken it up
                yield self._settle(Event("waiting", cell))
                return
            time.sleep(0.1)

    def _dismiss(self, worker: RayWorker) -> None:
        self._workers.remove(worker)
        self._batches.leave(worker)
        ray.kill(worker.actor)


def _describe_node(node: str) -> str:
    about = living_nodes().get(node)
    return f"{about['NodeManagerHostname']} ({node[:8]})" if about else node[:8]


def _warn(message: str) -> None:
    warnings.warn(message, CompatbenchWarning, stacklevel=3)
