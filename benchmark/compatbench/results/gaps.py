"""What is missing from a suite's results, what failed, and what does not agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from compatbench.data.cards.suite import COPIED
from compatbench.results.measures import Expected, find_row
from compatbench.results.store import MethodInfo, MethodResults, SuiteResults

Place = tuple[str, str, int, int, str]


@dataclass(frozen=True)
class Gap:
    """Measurements of one method that have no number, for one reason.

    Attributes:
        title: of the method, with the transfer if it is not ``copied``.
        kind: ``failed`` or ``missing``; a module that cannot be attached is a result, no gap.
        places: (task, test set, shots, seed, backbone) of each, in the suite's order; the
            backbone of a module that was fitted on it as a target is said to be ``retrained``.
    """

    method: str
    title: str
    kind: str
    reason: str
    places: tuple[Place, ...]


def find_gaps(results: SuiteResults, expected: Expected) -> list[Gap]:
    """Every failed or missing measurement, by method and reason."""
    gaps: list[Gap] = []
    for one in sorted(results.all, key=lambda one: (one.info.name, one.transfer != COPIED)):
        found: dict[tuple[str, str], list[Place]] = {}
        statuses, reasons = one.column("status"), one.column("reason")
        for sought, place in _expected_places(one, expected):
            row = find_row(one, sought)
            if row < 0:
                found.setdefault(("missing", ""), []).append(place)
            elif statuses[row] == "failed":
                found.setdefault(("failed", reasons[row]), []).append(place)
        gaps += [
            Gap(one.info.name, one.title, *cause, tuple(places))
            for cause, places in sorted(found.items())
        ]
    return gaps


def find_disagreements(results: SuiteResults) -> list[tuple[str, str]]:
    """(backbone, test set) pairs whose zero-shot accuracy is not the same in all rows.

    It does not depend on the method, so a difference means that rows were made with
    other weights, other images, or on a machine that rounds otherwise.
    """
    rows = results.frame.query("status == 'ok'")
    kinds = rows.drop_duplicates(["backbone", "test_set", "zero_shot_correct", "total"])
    counts = Counter(zip(kinds["backbone"], kinds["test_set"], strict=True))
    return sorted(place for place, count in counts.items() if count > 1)


def _expected_places(
    results: MethodResults, expected: Expected
) -> Iterator[tuple[tuple[str, str, int, int, str, str], Place]]:
    """Every measurement that the suite asks of a method, as ``find_row`` and as ``Gap`` has it."""
    paths: dict[str, dict[str, None]] = {}
    for source, target in expected.upgrades:
        paths.setdefault(source, {source: None})[target] = None
    if expected.retrained and can_be_retrained(results.info, results.transfer):
        for _, target in expected.upgrades:
            paths.setdefault(target, {target: None})
    for source, backbones in paths.items():
        for shots in expected.shots if results.info.learns else expected.shots[:1]:
            for task in expected.tasks:
                for test_set in (task, *expected.variants.get(task, ())):
                    for seed in expected.seeds_of(results.info):
                        for backbone in backbones:
                            where = backbone if len(backbones) > 1 else f"{backbone}, retrained"
                            sought = (task, source, shots, seed, backbone, test_set)
                            yield sought, (task, test_set, shots, seed, where)


def can_be_retrained(info: MethodInfo, transfer: str | None) -> bool:
    """Whether a fit on the target is asked for: the method learns, and its module is copied."""
    return info.learns and transfer == COPIED
