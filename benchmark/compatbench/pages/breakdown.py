"""What lies behind the means: what breaks, dataset by dataset, and under a shift of style."""

from __future__ import annotations

from collections.abc import Sequence

from compatbench.pages.cells import arrow_column, column, method_cell, value
from compatbench.pages.markdown import NOTHING, escape, percent, signed, table
from compatbench.pages.suitepage import SuitePage
from compatbench.results.measures import Measure, Standing, Upgrade, compute_standing


def breakage_table(page: SuitePage, upgrade: Upgrade, shots: int) -> list[str]:
    """What the upgrade changes for users of the old module: flips, calibration, harmed datasets."""
    header = ["Method", "NFR", "PFR", "Relative NFR", "Inconsistent", "ECE", "Harmed", "Worst"]
    standings = [one.standing for one in page.ranks(upgrade, shots)]

    def mean(standing: Standing, measure: Measure) -> str:
        return percent(value(standing.mean(measure)))

    rows = []
    for one in standings:
        relative, harmed = one.relative_flips, one.harmed
        worst = NOTHING
        if harmed is not None:
            worst = f"{signed(harmed[2])} ({escape(page.task_title(harmed[1]))})"
        rows.append(
            [
                method_cell(one),
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


def dataset_table(page: SuitePage, upgrade: Upgrade, shots: int, measure: Measure) -> list[str]:
    """One measure, methods × tasks and their mean."""
    tasks = page.expected.tasks
    standings = [one.standing for one in page.ranks(upgrade, shots)]
    columns = [[method_cell(one) for one in standings]]
    columns += [column([one.mean(measure, task) for one in standings]) for task in tasks]
    columns.append(column([one.mean(measure) for one in standings]))
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
    columns = [[method_cell(one.standing) for one in page.ranks(upgrade, shots)]]
    columns += [arrow_column(on_set, lambda one, of: value(one.mean(of))) for on_set in on_sets]
    by_method = list(zip(*on_sets[1:], strict=True))
    columns.append(arrow_column(by_method, _mean_of_variants))
    titles = [escape(page.task_title(name)) for name in (task, *variants)]
    header = ["Method", *titles, "Mean of variants"]
    return table(header, list(zip(*columns, strict=True)))


def _mean_of_variants(standings: Sequence[Standing], measure: Measure) -> float | None:
    values = [value(one.mean(measure)) for one in standings]
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if len(present) == len(values) else None
