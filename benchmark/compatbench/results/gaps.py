"""What is missing from a suite's results, what failed, and what does not agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compatbench.results.aligned import can_be_retrained
from compatbench.results.measures import Expected, RowIndex
from compatbench.results.rows import Row
from compatbench.results.store import MethodResults, SuiteResults


@dataclass(frozen=True)
class Gap:
    """Measurements of one method that have no number, for one reason.

    Attributes:
        kind: ``failed`` or ``missing``; a module that cannot be attached is a result, no gap.
        places: (task, test set, shots, seed, backbone) of each, in the suite's order; the
            backbone of a module that was fitted on it as a target is said to be ``retrained``.
    """

    method: str
    kind: str
    reason: str
    places: tuple[tuple[str, str, int, int, str], ...]


def find_gaps(results: SuiteResults, expected: Expected) -> list[Gap]:
    """Every failed or missing measurement, by method and reason."""
    gaps: list[Gap] = []
    for name, method in sorted(results.methods.items()):
        found: dict[tuple[str, str], list[tuple[str, str, int, int, str]]] = {}
        for place, row in _expected_rows(method, expected):
            if row is None:
                found.setdefault(("missing", ""), []).append(place)
            elif row.status == "failed":
                found.setdefault(("failed", row.reason), []).append(place)
        gaps += [Gap(name, *cause, tuple(places)) for cause, places in sorted(found.items())]
    return gaps


def find_disagreements(results: SuiteResults) -> list[tuple[str, str]]:
    """(backbone, test set) pairs whose zero-shot accuracy is not the same in all rows.

    It does not depend on the method, so a difference means that rows were made with
    other weights, other images, or on a machine that rounds otherwise.
    """
    seen: dict[tuple[str, str], set[tuple[int | None, int | None]]] = {}
    for method in results.methods.values():
        for row in method.rows:
            if row.status == "ok":
                counts = (row.zero_shot_correct, row.total)
                seen.setdefault((row.backbone, row.test_set), set()).add(counts)
    return sorted(place for place, counts in seen.items() if len(counts) > 1)


def _expected_rows(
    results: MethodResults, expected: Expected
) -> Iterator[tuple[tuple[str, str, int, int, str], Row | None]]:
    index = RowIndex(results, expected)
    paths: dict[str, dict[str, None]] = {}
    for source, target in expected.upgrades:
        paths.setdefault(source, {source: None})[target] = None
    if expected.retrained and can_be_retrained(results.info.name, results.info.learns):
        for _, target in expected.upgrades:
            paths.setdefault(target, {target: None})
    for source, backbones in paths.items():
        for shots in expected.shots if results.info.learns else expected.shots[:1]:
            for task in expected.tasks:
                for test_set in (task, *expected.variants.get(task, ())):
                    for seed in expected.seeds_of(results.info):
                        for backbone in backbones:
                            where = backbone if len(backbones) > 1 else f"{backbone}, retrained"
                            place = (task, test_set, shots, seed, where)
                            yield place, index.find(task, source, shots, seed, backbone, test_set)
