"""Divides the cells of a plan among the jobs of an array, about equally by time.

A division has to be the same in every job, however far the others are. So it depends on the
cells and on times alone, and the times that earlier cells took, which grow in number as the jobs
go on, are noted in the store when the first job divides, for all that follow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from compatbench.data.cards import SuiteCard
from compatbench.engine.cell import Cell
from compatbench.engine.costs import count_costs
from compatbench.engine.locks import locked
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import sha256_json
from compatbench.method.registry import MethodRegistry

# Of a fit whose operations are counted and were never timed: operations in a second. Only
# how the cells compare counts, and a core of these years is near it.
RATE = 5e10
LEAST_SECONDS = 1.0  # of any cell: its evaluation, its share of loading weights and features

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
        """Reads ``3/8``.

        Raises:
            CompatbenchError: it is not of that form, or out of range.
        """
        index, slash, count = text.partition("/")
        if slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
            return cls(int(index), int(count))
        raise CompatbenchError(f"--shard '{text}': give I/N, such as 3/8, with I from 1 to N")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def divide(cells: Sequence[Cell], seconds: Sequence[float], count: int) -> list[list[Cell]]:
    """Parts of a plan: each cell is in one, and each part takes about the same time.

    Cells of one backbone and task stand together, and the line of all cells is cut where the
    time is up. So at most ``count - 1`` such groups are split, and no part takes longer than
    an equal share and the longest cell.

    Args:
        seconds: what each cell takes, all above 0.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for i, cell in enumerate(cells):
        groups.setdefault((cell.source, cell.task), []).append(i)
    parts: list[list[Cell]] = [[] for _ in range(count)]
    total, before = sum(seconds), 0.0
    for i in (i for group in groups.values() for i in group):
        middle = before + seconds[i] / 2
        parts[min(int(count * middle / total), count - 1)].append(cells[i])
        before += seconds[i]
    return parts


def estimate_cells(
    suite: SuiteCard, registry: MethodRegistry, cells: Iterable[Cell], means: Means
) -> list[float]:
    """Seconds of each cell: counted from cards and model sizes, at the pace of what was timed.

    Args:
        means: mean seconds of a cell, of methods that were timed.
    """
    cells = list(cells)
    counted: dict[tuple[str, str, int], float] = {}
    by_method: dict[str, list[float]] = {}
    for cell in cells:
        place = cell.name, cell.task, cell.shots
        if place not in counted:
            costs = count_costs(
                suite, registry, [cell.name], [cell.task], [cell.seed], [cell.shots]
            )
            operations = costs.fit_flops / max(costs.counted_fits, 1)
            counted[place] = max(operations / RATE, LEAST_SECONDS)
        by_method.setdefault(cell.name, []).append(counted[place])
    pace = {
        name: means[name] / (sum(found) / len(found)) if means.get(name) else 1.0
        for name, found in by_method.items()
    }
    return [counted[cell.name, cell.task, cell.shots] * pace[cell.name] for cell in cells]


def agree_on_means(
    store: RunStore, cells: Sequence[Cell], count: int, means: Means, *, keep: bool = True
) -> Means:
    """The times that all jobs of an array divide by: those of the first one.

    Args:
        means: times known now.
        keep: whether they are noted, if they are the first.

    Raises:
        CompatbenchError: the store cannot be written.
    """
    name = sha256_json([count, sorted(cell.key for cell in cells)])[:16]
    path = store.folder / "shards" / f"{name}.json"
    if not keep:
        return _read_means(path) or means
    with locked(store, path.with_suffix(".lock"), wait=True):
        found = _read_means(path)
        if found is None:
            write_atomic(path, json.dumps(dict(means), indent=1, sort_keys=True).encode())
    return means if found is None else found


def _read_means(path: Path) -> Means | None:
    try:
        return _MEANS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        raise CompatbenchError(
            f"{path}, by which the shards were divided, cannot be read; when no job of the array "
            "is at work, remove it"
        ) from None
