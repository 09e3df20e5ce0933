"""The leaderboard's tables, as Markdown lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from compatbench.leaderboard.gaps import Gap
from compatbench.leaderboard.markdown import (
    NOTHING,
    bold_best,
    code,
    escape,
    fit_time,
    linked,
    parameters,
    percent,
    signed,
    spread,
    table,
)
from compatbench.leaderboard.measures import (
    Expected,
    Mean,
    Measure,
    Standing,
    Upgrade,
    compute_standing,
)
from compatbench.leaderboard.ranks import Ranked, rank_methods
from compatbench.leaderboard.results import SuiteResults, join_provenance
from compatbench.shots import count_shots


@dataclass(frozen=True)
class TaskFacts:
    """A task or variant, as the page names it."""

    title: str
    licence: str


@dataclass(frozen=True)
class SuitePage:
    """A suite as the leaderboard shows it: facts from its cards, and its results.

    Attributes:
        note: what a reader must know first.
        tasks: name -> facts, of tasks and of variants.
        backbones: name -> title.
        views: cached augmentations per training image; 1 is the plain view alone.
        max_steps: most optimiser steps a fit may take; None is no cap.
        groups: title -> upgrades, of a suite that keeps kinds of upgrades apart.
    """

    name: str
    title: str
    note: str
    tasks: Mapping[str, TaskFacts]
    backbones: Mapping[str, str]
    expected: Expected
    results: SuiteResults
    views: int = 1
    max_steps: int | None = None
    groups: Mapping[str, tuple[Upgrade, ...]] = field(default_factory=dict)

    @cached_property
    def _ranks(self) -> dict[tuple[Upgrade, int], list[Ranked]]:
        methods = self.results.methods.values()
        return {
            (upgrade, shots): rank_methods(
                [compute_standing(method, self.expected, upgrade, shots) for method in methods]
            )
            for upgrade in self.expected.upgrades
            for shots in self.expected.shots
        }

    def ranks(self, upgrade: Upgrade, shots: int) -> list[Ranked]:
        """The methods in the order of the main table."""
        return self._ranks[upgrade, shots]

    def backbone_title(self, name: str) -> str:
        return self.backbones.get(name, name)

    def task_title(self, name: str) -> str:
        return self.tasks[name].title if name in self.tasks else name


def main_table(page: SuitePage, upgrade: Upgrade, shots: int) -> list[str]:
    """Ranked by H: accuracies, gain and cost of every method."""
    return ranking_table(page.ranks(upgrade, shots))


def ranking_table(ranks: Sequence[Ranked]) -> list[str]:
    """Ranked methods with their accuracies, gain and cost."""
    header = [
        "Rank",
        "Method",
        "Depth",
        "Source",
        "Target",
        "H",
        "Gain",
        "NFR",
        "Parameters",
        "Fit",
    ]
    standings = [one.standing for one in ranks]
    columns = [
        [one.rank or NOTHING for one in ranks],
        [_method(one) for one in standings],
        [NOTHING if one.info.depth == "none" else one.info.depth for one in standings],
        _bold([one.mean("source") for one in standings]),
        _bold(
            [one.mean("target") for one in standings],
            ["not transferable" if one.state == "not transferable" else "" for one in standings],
        ),
        _bold(
            [one.mean("h") for one in standings],
            ["incomplete" if one.state == "incomplete" else "" for one in standings],
        ),
        [signed(_value(one.mean("gain"))) for one in standings],
        [percent(_value(one.mean("negative_flips"))) for one in standings],
        [parameters(one) for one in standings],
        [fit_time(one) for one in standings],
    ]
    return table(header, list(zip(*columns, strict=True)), left=(1, 2))


def breakage_table(page: SuitePage, upgrade: Upgrade, shots: int) -> list[str]:
    """What the upgrade changes for users of the old module: flips, calibration, harmed datasets."""
    header = ["Method", "NFR", "PFR", "Relative NFR", "Inconsistent", "ECE", "Harmed", "Worst"]
    standings = [one.standing for one in page.ranks(upgrade, shots)]

    def mean(standing: Standing, measure: Measure) -> str:
        return percent(_value(standing.mean(measure)))

    rows = []
    for one in standings:
        relative, harmed = one.relative_flips, one.harmed
        worst = NOTHING
        if harmed is not None:
            worst = f"{signed(harmed[2])} ({escape(page.task_title(harmed[1]))})"
        rows.append(
            [
                _method(one),
                mean(one, "negative_flips"),
                mean(one, "positive_flips"),
                NOTHING if relative is None else f"{relative:.2f}",
                mean(one, "inconsistent_errors"),
                f"{mean(one, 'source_ece')} → {mean(one, 'target_ece')}",
                NOTHING if harmed is None else f"{harmed[0]} of {len(page.expected.tasks)}",
                worst,
            ]
        )
    return table(header, rows)


def unranked_lines(page: SuitePage, upgrade: Upgrade, shots: int) -> list[str]:
    """Why methods at the foot of the main table have no H."""
    lines = []
    for one in (ranked.standing for ranked in page.ranks(upgrade, shots)):
        if one.state == "not transferable":
            reasons = "; ".join(escape(reason) for reason in one.reasons) or "no reason given"
            source = percent(_value(one.mean("source")))
            lines.append(
                f"- {escape(one.info.title)} is **not transferable** in {_share(one)} "
                f"(source {source}): {reasons}."
            )
        elif one.state == "incomplete":
            done, wanted = one.coverage
            lines.append(
                f"- {escape(one.info.title)} is **incomplete**: {done} of {wanted} cells measured, "
                "so no mean is given."
            )
    return lines


def _share(standing: Standing) -> str:
    """``all 24 cells``, or how many of how many."""
    refused, total = standing.refused, len(standing.pairs)
    return f"all {total} cells" if refused == total else f"{refused} of {total} cells"


def dataset_table(page: SuitePage, upgrade: Upgrade, shots: int, measure: Measure) -> list[str]:
    """One measure, methods × tasks and their mean."""
    tasks = page.expected.tasks
    standings = [one.standing for one in page.ranks(upgrade, shots)]
    columns = [[_method(one) for one in standings]]
    columns += [_column([one.mean(measure, task) for one in standings]) for task in tasks]
    columns.append(_column([one.mean(measure) for one in standings]))
    header = ["Method", *(escape(page.task_title(task)) for task in tasks), "Mean"]
    return table(header, list(zip(*columns, strict=True)))


def variant_table(page: SuitePage, upgrade: Upgrade, shots: int, task: str) -> list[str]:
    """``source → target`` accuracy on a task, on each of its variants, and on these in mean."""
    variants = page.expected.variants[task]
    methods = [page.results.methods[one.standing.info.name] for one in page.ranks(upgrade, shots)]

    def standings(test_set: str) -> list[Standing]:
        return [
            compute_standing(method, page.expected, upgrade, shots, (task, test_set))
            for method in methods
        ]

    on_sets = [standings(name) for name in (task, *variants)]
    columns = [[_method(one.standing) for one in page.ranks(upgrade, shots)]]
    columns += [_arrows(on_set, lambda one, of: _value(one.mean(of))) for on_set in on_sets]
    by_method = list(zip(*on_sets[1:], strict=True))
    columns.append(_arrows(by_method, _mean_of_variants))
    titles = [escape(page.task_title(name)) for name in (task, *variants)]
    header = ["Method", *titles, "Mean of variants"]
    return table(header, list(zip(*columns, strict=True)))


def differs_table(page: SuitePage) -> list[str]:
    """Settings that the suite changed, with all methods that share a change on one line."""
    changes: dict[tuple[str, str, str], list[str]] = {}
    for method in page.results.methods.values():
        for setting, (recipe, suite) in method.differs.items():
            change = (setting, _setting(recipe), _setting(suite))
            changes.setdefault(change, []).append(method.info.title)
    rows = [
        [code(setting), recipe, suite, escape(", ".join(sorted(titles)), longest=400)]
        for (setting, recipe, suite), titles in sorted(changes.items())
    ]
    return table(["Setting", "Published", "This suite", "Methods"], rows, (0, 1, 2, 3))


def gap_table(page: SuitePage, gaps: Sequence[Gap]) -> list[str]:
    """Failed and missing measurements: how many, the first places, and the reason."""
    rows = []
    for gap in gaps:
        task, test_set, shots, seed, backbone = gap.places[0]
        where = task if test_set == task else f"{task}/{test_set}"
        first = f"{where}, {count_shots(shots)}, seed {seed}, on {backbone}"
        title = page.results.methods[gap.method].info.title
        reason = escape(gap.reason) or NOTHING
        rows.append([escape(title), gap.kind, f"{len(gap.places):,}", escape(first), reason])
    return table(["Method", "What", "Rows", "First", "Reason"], rows, left=(0, 1, 3, 4))


def task_table(page: SuitePage) -> list[str]:
    """Every test set, and its licence."""
    rows = []
    for task in page.expected.tasks:
        for name in (task, *page.expected.variants.get(task, ())):
            kind = "task" if name == task else f"variant of {escape(page.task_title(task))}"
            licence = page.tasks[name].licence if name in page.tasks else ""
            rows.append([escape(page.task_title(name)), code(name), kind, escape(licence)])
    return table(["Test set", "Name", "Kind", "Licence"], rows, left=range(4))


def provenance_table(page: SuitePage) -> list[str]:
    """Versions and processors, all values together where rows differ."""
    joined = join_provenance(method.provenance for method in page.results.methods.values())
    rows = [[escape(name), escape(", ".join(values))] for name, values in joined.items()]
    return table(["What", "Version"], rows, left=(0, 1))


def _method(standing: Standing) -> str:
    """The title, linked; the zero-shot classifier, which inserts nothing, is the floor."""
    title = linked(standing.info.title, standing.info.paper)
    return f"{title} (floor)" if standing.info.depth == "none" else title


def _bold(means: Sequence[Mean | None], states: Sequence[str] = ()) -> list[str]:
    """A column of means; where there is none, the state if it says why."""
    cells = [spread(mean) for mean in means]
    if states:
        cells = [state or cell for state, cell in zip(states, cells, strict=True)]
    return bold_best([_value(mean) for mean in means], cells)


def _column(means: Sequence[Mean | None]) -> list[str]:
    values = [_value(mean) for mean in means]
    return bold_best(values, [percent(value) for value in values])


def _arrows(items: Sequence[Any], value: Callable[[Any, Measure], float | None]) -> list[str]:
    sides = []
    for measure in ("source", "target"):
        values = [value(item, measure) for item in items]
        sides.append(bold_best(values, [percent(one) for one in values]))
    return [f"{source} → {target}" for source, target in zip(*sides, strict=True)]


def _mean_of_variants(standings: Sequence[Standing], measure: Measure) -> float | None:
    values = [_value(one.mean(measure)) for one in standings]
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if len(present) == len(values) else None


def _value(mean: Mean | None) -> float | None:
    return None if mean is None else mean.value


def _setting(value: Any) -> str:
    if value is None:
        return "none"
    return escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
