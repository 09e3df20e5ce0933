"""Which cells are run again, how many, and how surely they find a forger: by numbers."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from compatbench.data.cards import names_elsewhere
from compatbench.engine.cell import Cell
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.stored_suite import PLACE, StoredSuite
from compatbench.method.registry import find_transfer


@dataclass(frozen=True)
class SampleSize:
    """How much is run again: a number of cells, or as many as find a share of forged ones."""

    cells: int | None = None  # in place of the other two
    forged: float = 0.1  # the share of cells that are forged
    power: float = 0.9  # the probability to find one of them
    minutes: float | None = None  # after which no other cell is begun

    def __post_init__(self) -> None:
        for name in ("forged", "power"):
            if not 0 < getattr(self, name) <= 1:
                raise CompatbenchError(f"'{name}' is {getattr(self, name)}; give one in (0, 1]")

    def count(self, of: int) -> int:
        """How many of so many cells are run again."""
        if self.cells is not None:
            return min(self.cells, of)
        return bisect_left(range(of), self.power, key=lambda n: find_power(n, of, self.forged))


def find_power(cells: int, of: int, forged: float) -> float:
    """The probability that cells drawn from so many hold a forged one.

    Each cell is as likely as any other, and is drawn once, so it makes no difference which are
    forged: the distribution is hypergeometric. The share is rounded up to whole cells.
    """
    bad = math.ceil(round(forged * of, 6))
    return 1 - math.comb(of - bad, cells) / math.comb(of, cells)


@dataclass(frozen=True)
class Sampled:
    """A cell to run again."""

    stands: tuple[tuple[str, Cell], ...]  # each suite that has it, and with which backbones
    ships: bool  # whether the weights and images of one of these suites ship with the project
    seconds: float  # of its fit, by its cost file

    @property
    def cell(self) -> Cell:
        return self.stands[0][1]

    @property
    def trains(self) -> bool:
        """Whether its transfer trains the module, which needs the method in the same process."""
        return find_transfer(self.cell.transfer, self.cell.transfer_plugin).card.trains

    @property
    def suites(self) -> list[str]:
        """The suites in which it is compared."""
        return list(dict.fromkeys(suite for suite, _ in self.stands))

    def __str__(self) -> str:
        return f"{self.cell} (fit {self.seconds:,.1f} s as recorded)"

    def to_dict(self) -> dict[str, Any]:
        """The suites, the cell's place and key, as JSON values."""
        place = ("task", "source", "shots", "seed", "transfer", "key")
        cell = {name: getattr(self.cell, name) for name in place}
        return {"suites": self.suites, "method": self.cell.name, **cell, "seconds": self.seconds}


@dataclass
class Draw:
    """Cells in random order, of which as many are run again as there is time for."""

    what: str  # that they were drawn from
    of: int
    wanted: list[Sampled]
    forged: float
    run: list[Sampled] = field(default_factory=list)  # so far

    @property
    def power(self) -> float:
        """The probability that one that is forged is among those that were run again."""
        return find_power(len(self.run), self.of, self.forged)

    def __str__(self) -> str:
        stopped = f" ({len(self.wanted):,} were wanted; the time was used up)"
        return (
            f"{len(self.run):,} of {self.of:,} {self.what} run again"
            f"{stopped if len(self.run) < len(self.wanted) else ''}: {self.forged:.3g} of them "
            f"forged would be found with probability {self.power:.2f}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON values."""
        counts = {"of": self.of, "wanted": len(self.wanted), "run": len(self.run)}
        return {"what": self.what, **counts, "forged": self.forged, "power": self.power}


def list_cells(stored: Mapping[str, StoredSuite]) -> list[Sampled]:
    """The cells of all suites that have rows; one that several suites have is one, for all."""
    stands, seconds = dict[str, list[tuple[str, Cell]]](), dict[str, float]()
    for name, suite in stored.items():
        seconds |= dict(zip(suite.costs["key"], suite.costs["fit_seconds"], strict=True))
        measured = set(suite.planned.merge(suite.rows[["method", *PLACE]])["key"])
        for cell in suite.cells:
            if cell.key in measured:
                stands.setdefault(cell.key, []).append((name, cell))
    shipped = {name for name, suite in stored.items() if not names_elsewhere(suite.card)}
    return [
        Sampled(tuple(both), any(name in shipped for name, _ in both), seconds.get(key, 0.0))
        for key, both in sorted(stands.items())
    ]


def draw_cells(
    cells: Sequence[Sampled],
    size: SampleSize,
    seed: int,
    only: Collection[str] | None = None,
    new: Collection[str] = (),
    each: bool = False,
) -> list[Draw]:
    """Draws what is run again; ``audit_results`` says of which methods."""
    if size.cells is not None:  # that many in all
        new, each = (), False
    cells = sorted(cells, key=lambda one: one.cell.key)
    random.Random(seed).shuffle(cells)
    changed = [one for one in cells if only is None or one.cell.name in only]
    whole = [one for one in changed if one.ships and one.cell.name in new]
    some = [one for one in changed if not one.ships or one.cell.name not in new]
    names = {one.cell.name for one in changed}
    others = {one.cell.name: one for one in cells if one.ships and one.cell.name not in names}
    others = others if each else {}
    draws = (
        ("methods, a cell of each,", len(others), [*others.values()]),
        ("cells of new methods", len(whole), whole),
        (
            "cells" if only is None else "cells of changed methods",
            len(some),
            some[: size.count(len(some))],
        ),
    )
    return [Draw(what, of, wanted, size.forged) for what, of, wanted in draws if of]


def round_robin(draws: Iterable[Draw]) -> Iterator[tuple[Draw, Sampled]]:
    """What is wanted of several draws, one from each in turn, so that time ends all alike."""
    for row in zip_longest(*([(draw, one) for one in draw.wanted] for draw in draws)):
        yield from (both for both in row if both is not None)
