"""A run of many cells on many GPUs, event by event; workers pull cells as those of a run do.

Workers load weights and read features over one file system, wait for features that another
worker encodes, write records, die and come back. What each of these takes is given.
"""

from __future__ import annotations

import heapq
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from compatbench.engine.costs import BACKBONES_AT_HAND
from compatbench.engine.order import longest_first

# What a worker's time goes to.
KINDS: tuple[str, ...] = ("compute", "encode", "wait", "load", "store", "lost")
Steps = Generator[tuple[str, float | None], None, None]  # kinds of steps, and when each ends


@dataclass(frozen=True)
class Job:
    """A cell and what it takes.

    Attributes:
        name: the method's.
        seconds: of fit and evaluation, once all that it needs is there.
        backbones: whose weights it needs.
        features: names of the entries of the feature cache that it needs.
        read_bytes: what it reads of them.
        writes: files that it writes, one after the other.
    """

    source: str
    task: str
    shots: int
    seed: int
    name: str
    seconds: float
    backbones: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    read_bytes: float = 0.0
    writes: int = 0


@dataclass(frozen=True)
class Site:
    """What the machines are like.

    Attributes:
        weight_bytes: of every backbone.
        encode_seconds: of every entry of the feature cache.
        worker_rate: bytes a second that one worker reads.
        shared_rate: bytes a second that the file system gives to all workers.
        write_rate: small files a second that it takes from all workers.
        mean_life: seconds until a worker dies, on average; it dies at random.
        restart: seconds until it is back, with nothing in memory.
        seed: of the deaths.
    """

    weight_bytes: Mapping[str, float] = field(default_factory=dict)
    encode_seconds: Mapping[str, float] = field(default_factory=dict)
    worker_rate: float = float("inf")
    shared_rate: float = float("inf")
    write_rate: float = float("inf")
    mean_life: float = float("inf")
    restart: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a run took.

    Attributes:
        makespan: seconds until the last cell is stored.
        spent: seconds of all workers together, by what they went to; the rest they had no cell.
        deaths: of workers.
    """

    workers: int
    makespan: float
    spent: dict[str, float]
    deaths: int

    @property
    def idle(self) -> float:
        """Seconds of all workers together without a cell."""
        return max(self.workers * self.makespan - sum(self.spent.values()), 0.0)


class _Server:
    """Something that serves one request at a time, in the order in which they come."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free = 0.0

    def serve(self, now: float, amount: float) -> float:
        """When a request that comes now has been served."""
        self._free = max(now, self._free) + amount / self._rate
        return self._free


@dataclass(eq=False)
class _Worker:
    """A GPU, or its part, and the process on it.

    Attributes:
        steps: what it does until it dies; the events of an earlier life are void.
        kind: of what it does now, and ``since`` when; empty without a cell.
        weights: in memory, the last used at the end.
    """

    steps: Steps = field(init=False)
    kind: str = ""
    since: float = 0.0
    weights: OrderedDict[str, None] = field(default_factory=OrderedDict)


class _Run:
    def __init__(self, jobs: Sequence[Job], workers: int, site: Site) -> None:
        self._site = site
        # In the order of a run, whatever the number of workers.
        self._jobs = deque(longest_first(jobs, lambda job: job.seconds))
        self._left, self._count = len(jobs), workers
        self._now = 0.0
        self._order = count()
        self._events: list[tuple[float, int, _Worker, Steps, bool]] = []
        self._reading = _Server(site.shared_rate)
        self._writing = _Server(site.write_rate)
        self._ready: set[str] = set()
        self._encoding: set[str] = set()
        self._waiting = defaultdict[str, list[_Worker]](list)  # by entry; for a cell by ""
        self._spent: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self._random = random.Random(site.seed)
        self._deaths = 0

    def run(self) -> Outcome:
        for _ in range(self._count):
            self._begin(_Worker())
        while self._left:
            self._now, _, worker, steps, dies = heapq.heappop(self._events)
            if steps is worker.steps:
                (self._die if dies else self._go_on)(worker)
        return Outcome(self._count, self._now, self._spent, self._deaths)

    def _begin(self, worker: _Worker, after: float = 0.0) -> None:
        worker.steps, worker.since = self._live(worker), self._now
        self._at(self._now + after, worker)
        if self._site.mean_life < float("inf"):
            life_time = self._random.expovariate(1 / self._site.mean_life)
            self._at(self._now + life_time, worker, dies=True)

    def _at(self, when: float, worker: _Worker, dies: bool = False) -> None:
        heapq.heappush(self._events, (when, next(self._order), worker, worker.steps, dies))

    def _go_on(self, worker: _Worker) -> None:
        """A worker has done what it did, and begins what comes next."""
        self._book(worker, worker.kind)
        worker.kind, until = next(worker.steps)
        worker.since = self._now
        if until is not None:  # else another worker wakes it
            self._at(until, worker)

    def _book(self, worker: _Worker, kind: str) -> None:
        if worker.kind:
            self._spent[kind] += self._now - worker.since

    def _die(self, worker: _Worker) -> None:
        """A worker dies: its cell is run again, and what it was encoding by another."""
        self._deaths += 1
        worker.steps.close()
        worker.weights.clear()
        self._book(worker, "lost")
        worker.kind = "lost"
        self._begin(worker, self._site.restart)

    def _live(self, worker: _Worker) -> Steps:
        """What a worker does: the kind of each step, and when it ends."""
        while True:
            while not self._jobs:
                yield from self._wait(worker)
            job = self._jobs.popleft()
            try:
                yield from self._work(worker, job)
            except GeneratorExit:
                self._jobs.appendleft(job)  # its lock is free again
                self._wake()
                raise
            self._left -= 1

    def _work(self, worker: _Worker, job: Job) -> Steps:
        site = self._site
        for name in job.backbones:
            if name not in worker.weights:
                yield "load", self._read(site.weight_bytes.get(name, 0.0))
                worker.weights[name] = None
            worker.weights.move_to_end(name)
            if len(worker.weights) > BACKBONES_AT_HAND:
                worker.weights.popitem(last=False)
        for entry in job.features:
            while entry in self._encoding:
                yield from self._wait(worker, entry)
            if entry not in self._ready:
                yield from self._encode(entry)
        if job.read_bytes:
            yield "load", self._read(job.read_bytes)
        yield "compute", self._now + job.seconds
        if job.writes:
            yield "store", self._writing.serve(self._now, job.writes)

    def _encode(self, entry: str) -> Steps:
        self._encoding.add(entry)
        try:
            yield "encode", self._now + self._site.encode_seconds.get(entry, 0.0)
            self._ready.add(entry)
        finally:
            self._encoding.remove(entry)
            self._wake(entry)

    def _wait(self, worker: _Worker, entry: str = "") -> Steps:
        waiting = self._waiting[entry]
        waiting.append(worker)
        try:
            yield "wait" if entry else "", None
        except GeneratorExit:
            if worker in waiting:
                waiting.remove(worker)
            raise

    def _wake(self, entry: str = "") -> None:
        for worker in self._waiting.pop(entry, []):
            self._at(self._now, worker)

    def _read(self, size: float) -> float:
        return max(self._reading.serve(self._now, size), self._now + size / self._site.worker_rate)


def simulate(jobs: Sequence[Job], workers: int, site: Site) -> Outcome:
    """Runs the jobs on so many workers."""
    return _Run(jobs, workers, site).run()
