"""The tables at a suite's end: costs, settings, test sets, versions, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence

from compatbench.data.shots import count_shots
from compatbench.engine.record import name_of
from compatbench.files.sizes import format_bytes
from compatbench.pages.cells import method_cell, setting_cell
from compatbench.pages.markdown import (
    NOTHING,
    code,
    duration,
    escape,
    fit_time,
    parameters,
    table,
)
from compatbench.pages.suitepage import SuitePage
from compatbench.results.costs import evaluate_seconds, module_bytes, peak_memory
from compatbench.results.gaps import Gap
from compatbench.results.measures import Upgrade
from compatbench.results.store import join_provenance


def cost_table(page: SuitePage, upgrade: Upgrade, shots: int) -> list[str]:
    """What every method takes, and the name by which commands know it."""
    ranks = [one.standing for one in page.ranks(upgrade, shots)]
    rows = []
    for one in [*ranks, *page.standings(page.aligned, upgrade, shots)]:
        rows.append(
            [
                method_cell(one),
                code(name_of(one.info.name, one.transfer)),
                parameters(one),
                _bytes(module_bytes(one)),
                fit_time(one),
                duration(evaluate_seconds(one.results, one)),
                _bytes(peak_memory(one.results, one)),
            ]
        )
    header = ["Method", "Name", "Parameters", "Module", "Fit", "Evaluate", "Peak memory"]
    return table(header, rows, left=(0, 1))


def _bytes(size: int | None) -> str:
    return NOTHING if size is None else format_bytes(size)


def differs_table(page: SuitePage) -> list[str]:
    """Settings that the suite changed, with all methods that share a change on one line."""
    changes: dict[tuple[str, str, str], list[str]] = {}
    for method in page.copied:
        for setting, (recipe, suite) in method.differs.items():
            change = (setting, setting_cell(recipe), setting_cell(suite))
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
        reason = escape(gap.reason) or NOTHING
        rows.append([escape(gap.title), gap.kind, f"{len(gap.places):,}", escape(first), reason])
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
    joined = join_provenance(method.provenance for method in page.results.all)
    rows = [[escape(name), escape(", ".join(values))] for name, values in joined.items()]
    return table(["What", "Version"], rows, left=(0, 1))
