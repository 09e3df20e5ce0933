"""One module along an upgrade path A → B → C: its worth at every step, and how that decays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from compatbench.results.measures import Expected, Mean, compute_standing, mean_of_all
from compatbench.results.store import MethodResults


@dataclass(frozen=True)
class Step:
    """A module at one model of a path; a figure is None if anything of it is missing.

    Attributes:
        accuracy: in percent, mean over datasets and seeds.
        gain: over this model's own zero-shot, in points.
    """

    backbone: str
    accuracy: Mean | None
    gain: Mean | None


def follow_path(
    results: MethodResults, expected: Expected, path: Sequence[str], shots: int
) -> list[Step]:
    """The module of ``path``'s source at the source and at every target, in order."""
    source, *targets = path
    standings = [compute_standing(results, expected, (source, target), shots) for target in targets]
    first = Step(source, standings[0].mean("source"), standings[0].mean("source_gain"))
    return [
        first,
        *(
            Step(target, one.mean("target"), one.mean("gain"))
            for target, one in zip(targets, standings, strict=True)
        ),
    ]


def changes(values: Sequence[float | None]) -> list[float | None]:
    """What every step after the first changes; None beside a step without a figure."""
    return [
        None if before is None or after is None else after - before
        for before, after in pairwise(values)
    ]


def change_per_step(values: Sequence[float | None]) -> float | None:
    """The mean change of a step, the last value minus the first over the steps between.

    Returns:
        None if any step has no figure: no mean is taken over the steps that happen to be there.
    """
    return mean_of_all(changes(values))
