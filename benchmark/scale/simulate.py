"""A run of many cells on many GPUs, event by event; workers pull cells as those of a run do.

Workers load weights and read features over one file system, wait for features that another
worker encodes, write records, die and come back. What each of these takes is given.
"""

from __future__ import annotations

import heapq
import random
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from compatbench.engine.costs import BACKBONES_AT_HAND
from compatbench.engine.order import longest_first

# What a worker's time goes to.
KINDS: tuple[str, ...] = ("compute", "encode", "wait", "load", "store", "lost")


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
        life: how often it has died; events of an earlier life are void.
        steps: what is left of its cell; the first of them is at work.
        kind: of what it does now, and ``since`` when.
        away: dead, and on its way back.
        weights: in memory, the last used at the end.
    """

    number: int
    life: int = 0
    job: Job | None = None
    steps: Iterator[tuple[str, float | None]] | None = None
    kind: str = ""
    since: float = 0.0
    away: bool = False
    weights: OrderedDict[str, None] = field(default_factory=OrderedDict)


class _Run:
    def __init__(self, jobs: Sequence[Job], workers: int, site: Site) -> None:
        self._site = site
        # In the order of a run, whatever the number of workers.
        ordered = longest_first(jobs, lambda job: job.seconds)
        self._waiting_jobs = deque(ordered)
        self._left = len(jobs)
        self._now = 0.0
        self._order = count()
        self._events: list[tuple[float, int, _Worker, int, bool]] = []
        self._workers = [_Worker(number) for number in range(workers)]
        self._reading = _Server(site.shared_rate)
        self._writing = _Server(site.write_rate)
        self._ready: set[str] = set()
        self._encoding: dict[str, _Worker] = {}
        self._waiting: dict[str, list[_Worker]] = {}
        self._unemployed: list[_Worker] = []
        self._spent: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self._random = random.Random(site.seed)
        self._deaths = 0

    def run(self) -> Outcome:
        for worker in self._workers:
            self._at(0.0, worker)
            self._plan_death(worker)
        while self._left:
            self._now, _, worker, life, dies = heapq.heappop(self._events)
            if life != worker.life:
                continue
            if dies:
                self._die(worker)
            else:
                self._go_on(worker)
        return Outcome(len(self._workers), self._now, self._spent, self._deaths)

    def _at(self, when: float, worker: _Worker, dies: bool = False) -> None:
        heapq.heappush(self._events, (when, next(self._order), worker, worker.life, dies))

    def _plan_death(self, worker: _Worker) -> None:
        if self._site.mean_life < float("inf"):
            life = self._random.expovariate(1 / self._site.mean_life)
            self._at(self._now + life, worker, dies=True)

    def _go_on(self, worker: _Worker) -> None:
        """A worker has done what it did, and begins what comes next."""
        self._book(worker)
        worker.away = False
        while self._left:
            if worker.steps is None:
                if not self._waiting_jobs:
                    self._unemployed.append(worker)
                    return
                worker.job = self._waiting_jobs.popleft()
                worker.steps = self._steps(worker, worker.job)
            step = next(worker.steps, None)
            if step is None:
                worker.job = worker.steps = None
                self._left -= 1
                continue
            worker.kind, until = step
            worker.since = self._now
            if until is not None:  # else another worker wakes it
                self._at(until, worker)
            return

    def _steps(self, worker: _Worker, job: Job) -> Iterator[tuple[str, float | None]]:
        """What a cell does: the kind of each step, and when it ends."""
        site = self._site
        for name in job.backbones:
            if name not in worker.weights:
                yield "load", self._read(site.weight_bytes.get(name, 0.0))
                worker.weights[name] = None
            worker.weights.move_to_end(name)
            if len(worker.weights) > BACKBONES_AT_HAND:
                worker.weights.popitem(last=False)
        for entry in job.features:
            while entry not in self._ready:
                if entry in self._encoding:
                    self._waiting.setdefault(entry, []).append(worker)
                    yield "wait", None
                    continue
                self._encoding[entry] = worker
                yield "encode", self._now + site.encode_seconds.get(entry, 0.0)
                del self._encoding[entry]
                self._ready.add(entry)
                self._wake(entry)
        if job.read_bytes:
            yield "load", self._read(job.read_bytes)
        yield "compute", self._now + job.seconds
        if job.writes:
            yield "store", self._writing.serve(self._now, job.writes)

    def _read(self, size: float) -> float:
        return max(self._reading.serve(self._now, size), self._now + size / self._site.worker_rate)

    def _wake(self, entry: str) -> None:
        for worker in self._waiting.pop(entry, []):
            self._at(self._now, worker)

    def _book(self, worker: _Worker) -> None:
        if worker.job is not None or worker.away:
            self._spent[worker.kind] += self._now - worker.since

    def _die(self, worker: _Worker) -> None:
        """A worker dies: its cell is run again, and what it was encoding by another."""
        self._deaths += 1
        worker.life += 1
        for entry, owner in list(self._encoding.items()):
            if owner is worker:
                del self._encoding[entry]
                self._wake(entry)
        for waiting in self._waiting.values():
            if worker in waiting:
                waiting.remove(worker)
        if worker in self._unemployed:
            self._unemployed.remove(worker)
        worker.weights.clear()
        worker.steps, job, worker.job = None, worker.job, None
        if job is not None or worker.away:
            self._spent["lost"] += self._now - worker.since
        if job is not None:
            self._waiting_jobs.appendleft(job)  # its lock is free again
        for idle in self._unemployed:
            self._at(self._now, idle)
        self._unemployed.clear()
        worker.away, worker.kind, worker.since = True, "lost", self._now
        self._at(self._now + self._site.restart, worker)
        self._plan_death(worker)


def simulate(jobs: Sequence[Job], workers: int, site: Site) -> Outcome:
    """Runs the jobs on so many workers."""
    return _Run(jobs, workers, site).run()
