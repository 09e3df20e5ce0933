"""Divides the cells of a plan among the jobs of an array, about equally by time.

Every job has to make the same division, however far the others are. It depends on the cells and
on times alone; the times of earlier cells, which become more as the jobs run, are stored when the
first job divides, for all that follow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter, ValidationError

from compatbench.engine.cell import Cell
from compatbench.engine.costs import TimeEstimate
from compatbench.engine.plan import Plan
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import sha256_json

# Operations a second of a core of these years. Only how cells compare matters for their order
# and for shards, which must be the same on every machine.
RATE = 5e10
LEAST_SECONDS = 1e-3

Means = Mapping[str, float]
_MEANS = TypeAdapter(dict[str, float])


@dataclass(frozen=True)
class Shard:
    """One of several parts of a plan.

    Attributes:
        index: from 1 to ``count``.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads ``3/8``."""
        index, slash, count = text.partition("/")
        if slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
            return cls(int(index), int(count))
        raise CompatbenchError(f"--shard '{text}': give I/N, such as 3/8, with I from 1 to N")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def take_shard(plan: Plan, shard: Shard, *, keep: bool = True) -> Plan:
    """The plan with the cells of one shard to run.

    Args:
        keep: whether the store notes how the cells were divided, so that other jobs agree.
    """
    cells = [item.cell for item in plan.planned]
    means = agree_on_means(plan.store, cells, shard.count, plan.seconds_by_method, keep=keep)
    seconds = list(map(estimate_seconds(plan, means), cells))
    mine = divide(cells, seconds, shard.count)[shard.index - 1]
    return replace(plan, shard=frozenset(cell.key for cell in mine))


def estimate_seconds(plan: Plan, means: Means) -> Callable[[Cell], float]:
    """What each cell takes beside the others, whatever the machine; above 0.

    Args:
        means: mean seconds of a finished cell by method.
    """
    estimate = TimeEstimate(plan.matrix, RATE, means)
    return lambda cell: max(estimate.cell(cell), LEAST_SECONDS)


def divide(cells: Sequence[Cell], seconds: Sequence[float], count: int) -> list[list[Cell]]:
    """Parts of a plan: each cell is in one, and each part takes about the same time.

    Cells of one source and task stay together, with all their seeds, so that every part can run
    seed by seed. The list of all cells is cut where the time is up: at most ``count - 1`` groups
    are split, and no part takes longer than an equal share and the longest cell.

    Args:
        seconds: what each cell takes, all above 0.
    """
    first: dict[tuple[str, str], int] = {}
    for i, cell in enumerate(cells):
        first.setdefault((cell.source, cell.task), i)
    order = sorted(range(len(cells)), key=lambda i: first[cells[i].source, cells[i].task])
    parts: list[list[Cell]] = [[] for _ in range(count)]
    total, before = sum(seconds), 0.0
    for i in order:
        middle = before + seconds[i] / 2
        parts[min(int(count * middle / total), count - 1)].append(cells[i])
        before += seconds[i]
    return parts


def agree_on_means(
    store: RunStore, cells: Sequence[Cell], count: int, means: Means, *, keep: bool = True
) -> Means:
    """The times that all jobs of an array divide by: those of the first one.

    Args:
        means: mean seconds of a cell by method, as known now.
        keep: whether they are stored, if they are the first.
    """
    name = sha256_json([count, sorted(cell.key for cell in cells)])[:16]
    path = store.folder / "shards" / f"{name}.json"

    def read() -> Means | None:
        try:
            return _MEANS.validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            raise CompatbenchError(
                f"{path}, by which the shards were divided, cannot be read; remove it when no job "
                "of the array is running"
            ) from None

    if not keep:
        return read() or means
    with store.locked(path.with_suffix(".lock")):
        found = read()
        if found is None:
            write_atomic(path, json.dumps(dict(means), indent=1, sort_keys=True).encode())
    return means if found is None else found
