"""The Markdown tables of a suite; every text in their cells is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from compatbench.data.shots import show_shots
from compatbench.files.sizes import format_bytes
from compatbench.pages.markdown import (
    NOTHING,
    bold_best,
    bounds,
    code,
    duration,
    escape,
    percent,
    signed,
    table,
)
from compatbench.pages.ranking import (
    format_parameters,
    gap_rows,
    ranking_rows,
)
from compatbench.pages.ranking_tables import Table, method_cell, value
from compatbench.pages.suite_page import SuitePage
from compatbench.results.intervals import paired_interval
from compatbench.results.measures import Measure, Standing, Upgrade, compute_standing, mean_of_all
from compatbench.results.paths import change_per_step, changes, follow_path
from compatbench.results.retained import compute_retained
from compatbench.results.store import MethodResults, join_provenance


def breakage_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """What the upgrade changes for users of the old module: flips, calibration, harmed datasets."""
    rows = []
    for one in _standings(page, upgrade, shots):
        relative, harmed = one.relative_flips, one.harmed
        worst = NOTHING
        if harmed is not None:
            worst = f"{signed(harmed[2])} ({escape(page.task_title(harmed[1]))})"
        flips = [one.mean(m) for m in ("negative_flips", "positive_flips", "inconsistent_errors")]
        negative, positive, inconsistent = (percent(value(mean)) for mean in flips)
        before, after = (percent(value(one.mean(m))) for m in ("source_ece", "target_ece"))
        rows.append(
            [
                method_cell(one),
                negative,
                positive,
                NOTHING if relative is None else f"{relative:.2f}",
                inconsistent,
                f"{before} → {after}",
                NOTHING if harmed is None else f"{harmed[0]} of {len(page.expected.tasks)}",
                worst,
            ]
        )
    header = ["Method", "NFR", "PFR", "Relative NFR", "Inconsistent", "ECE", "Harmed", "Worst"]
    return table(header, rows)


def dataset_table(page: SuitePage, upgrade: Upgrade, shots: int, measure: Measure) -> Table:
    """One measure, methods × tasks and their mean."""
    standings = _standings(page, upgrade, shots)
    columns = [_column(standings, measure, task) for task in (*page.expected.tasks, None)]
    titles = [escape(page.task_title(task)) for task in page.expected.tasks]
    return _by_method(standings, columns, [*titles, "Mean"])


def variant_table(page: SuitePage, upgrade: Upgrade, shots: int, task: str) -> Table:
    """``source → target`` accuracy on a task, on each of its variants, and on these in mean."""
    standings = _standings(page, upgrade, shots)
    test_sets = (task, *page.expected.variants[task])
    sides: list[list[list[str]]] = []  # [side, column, method]
    on_sets = [
        [
            compute_standing(
                page.method(one.info.name), page.expected, upgrade, shots, (task, name)
            )
            for one in standings
        ]
        for name in test_sets
    ]
    for measure in ("source", "target"):
        values = [[value(one.mean(measure)) for one in on_set] for on_set in on_sets]
        values.append([mean_of_all(line) for line in zip(*values[1:], strict=True)])
        sides.append([bold_best(column, list(map(percent, column))) for column in values])
    columns = [
        [f"{before} → {after}" for before, after in zip(*both, strict=True)]
        for both in zip(*sides, strict=True)
    ]
    titles = [escape(page.task_title(name)) for name in test_sets]
    return _by_method(standings, columns, [*titles, "Mean of variants"])


def path_table(
    page: SuitePage, path: Sequence[str], shots: int, figure: Literal["accuracy", "gain"]
) -> Table:
    """A figure of every method at every model of a path, with what each step changes.

    Methods are in the order of H at the path's last model.
    """
    show = percent if figure == "accuracy" else signed
    rows = []
    for one in _standings(page, (path[0], path[-1]), shots):
        method = page.method(one.info.name)
        steps = follow_path(method, page.expected, path, shots)
        values = [value(getattr(step, figure)) for step in steps]
        cells = [show(values[0])]
        for after, change in zip(values[1:], changes(values), strict=True):
            cells.append(show(after) + (f" ({signed(change)})" if change is not None else ""))
        rows.append([method_cell(one), *cells, signed(change_per_step(values))])
    titles = [escape(page.backbone_title(name)) for name in path]
    return table(["Method", *titles, "Per step"], rows)


def shots_table(page: SuitePage, upgrade: Upgrade, measure: Measure) -> Table:
    """A measure by number of training images per class, in the order of H at the largest."""
    counts = sorted(page.expected.shots)
    standings = _standings(page, upgrade, counts[-1])
    methods = [page.method(one.info.name) for one in standings]
    columns = [_column(page.standings(methods, upgrade, count), measure) for count in counts]
    return _by_method(standings, columns, [str(show_shots(count)) for count in counts])


def ablation_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """Every named config against the method that it configures: mean differences over datasets.

    A difference is in bold if its 95 % interval does not contain 0.
    """
    methods, rows = {one.info.name: one for one in page.copied}, []
    for name, base_name in page.configs.items():
        config, base = methods.get(name), methods.get(base_name)
        if config is None:
            continue
        if base is None:
            rows.append([escape(config.info.title), *[NOTHING] * 5])
            continue
        both = page.standings([config, base], upgrade, shots)
        found = [paired_interval(both[0], both[1], m) for m in ("source", "target", "h")]
        marks = ["**" if one is not None and one.sign else "" for one in found]
        shown = [
            f"{mark}{signed(one.value if one else None)}{mark}"
            for mark, one in zip(marks, found, strict=True)
        ]
        title, changed = escape(config.info.title), _changed_settings(config, base)
        rows.append([title, changed, *shown, bounds(found[2], signed)])
    header = ["Config", "Change", "Source", "Target", "H", "95 % of H"]
    return table(header, rows, left=(0, 1))


def retained_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """The gain of the old module beside that of one retrained on the target."""
    rows = []
    for one in _standings(page, upgrade, shots):
        if one.info.learns:
            method = page.method(one.info.name)
            found = compute_retained(method, page.expected, upgrade, shots)
            gains = [signed(value(mean)) for mean in (found.attached, found.retrained)]
            kept = NOTHING if found.kept is None else f"{_whole(found.kept.value)} %"
            rows.append([method_cell(one), *gains, kept, bounds(found.kept, _whole)])
    return table(["Method", "Old module", "Retrained", "Kept", "95 % of kept"], rows)


def cost_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """What every method takes, and the name by which commands know it."""
    rows = []
    for row in ranking_rows(page, upgrade, shots):
        rows.append(
            [
                method_cell(row.standing, row.transfer),
                code(row.figures["method"]),
                format_parameters(row),
                _bytes(row.figures["module_bytes"]),
                duration(row.seconds),
                duration(row.figures["evaluate_seconds"]),
                _bytes(row.figures["peak_memory"]),
            ]
        )
    header = ["Method", "Name", "Parameters", "Module", "Fit", "Evaluate", "Peak memory"]
    return table(header, rows, left=(0, 1))


def settings_table(page: SuitePage) -> Table:
    """Settings that the suite changed, with all methods that share a change on one line."""
    shared: dict[tuple[str, str, str], list[str]] = {}
    for method in page.copied:
        for setting, (recipe, suite) in method.differs.items():
            change = (setting, _setting(recipe), _setting(suite))
            shared.setdefault(change, []).append(method.info.title)
    rows = [
        [code(setting), recipe, suite, escape(", ".join(sorted(titles)), longest=400)]
        for (setting, recipe, suite), titles in sorted(shared.items())
    ]
    return table(["Setting", "Published", "This suite", "Methods"], rows, (0, 1, 2, 3))


def gap_table(page: SuitePage) -> Table | None:
    """Failed and missing measurements: how many, the first place, and the reason."""
    rows = [[escape(text) or NOTHING for text in row] for row in gap_rows(page)]
    header = ["Method", "What", "Rows", "First", "Reason"]
    return table(header, rows, left=(0, 1, 3, 4)) if rows else None


def task_table(page: SuitePage) -> Table:
    """Every test set, and its licence."""
    rows = []
    for task in page.expected.tasks:
        for name in (task, *page.expected.variants.get(task, ())):
            kind = "task" if name == task else f"variant of {escape(page.task_title(task))}"
            licence = page.tasks[name].licence if name in page.tasks else ""
            rows.append([escape(page.task_title(name)), code(name), kind, escape(licence)])
    return table(["Test set", "Name", "Kind", "Licence"], rows, left=range(4))


def provenance_table(page: SuitePage) -> Table:
    """Versions and processors, all values together where rows differ."""
    joined = join_provenance(method.provenance for method in page.measured)
    rows = [[escape(name), escape(", ".join(values))] for name, values in joined.items()]
    return table(["What", "Version"], rows, left=(0, 1))


def _standings(page: SuitePage, upgrade: Upgrade, shots: int) -> list[Standing]:
    """Of untouched modules, in the order of the ranking."""
    return [one.standing for one in page.ranks(upgrade, shots)]


def _column(standings: Iterable[Standing], measure: Measure, task: str | None = None) -> list[str]:
    values = [value(one.mean(measure, task)) for one in standings]
    return bold_best(values, [percent(one) for one in values])


def _by_method(
    standings: Sequence[Standing], columns: Sequence[Sequence[str]], titles: Sequence[str]
) -> Table:
    rows = zip(map(method_cell, standings), *columns, strict=True)
    return table(["Method", *titles], [list(row) for row in rows])


def _changed_settings(config: MethodResults, base: MethodResults) -> str:
    """``attention: self → prompts``, for every setting that differs."""
    parts = [
        f"{code(name)}: {_setting(base.config.get(name))} → {_setting(setting)}"
        for name, setting in sorted(config.config.items())
        if setting != base.config.get(name)
    ]
    return "; ".join(parts) or NOTHING


def _setting(setting: Any) -> str:
    """A method's setting as a file has it."""
    if setting is None:
        return "none"
    return escape(setting if isinstance(setting, str) else json.dumps(setting, ensure_ascii=False))


def _bytes(size: int | None) -> str:
    return NOTHING if size is None else format_bytes(size)


def _whole(share: float | None) -> str:
    return NOTHING if share is None else f"{round(share) + 0:.0f}"
