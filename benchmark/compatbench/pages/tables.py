"""The Markdown tables of a suite; every text in their cells is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from string import ascii_lowercase
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
    linked,
    percent,
    signed,
    spread,
    table,
)
from compatbench.pages.ranking import (
    COLUMNS,
    RankingRow,
    format_parameters,
    gap_rows,
    ranking_rows,
    rows_of,
)
from compatbench.pages.suite_page import SuitePage
from compatbench.results.bootstrap import compute_retained, paired_interval
from compatbench.results.measures import (
    Mean,
    Measure,
    Standing,
    Upgrade,
    changes,
    compute_standing,
    follow_path,
    mean_of_all,
)
from compatbench.results.ranks import ALPHA, rank_cliques, rank_datasets
from compatbench.results.store import MethodResults, join_provenance

Table = list[str]


def ranking_table(rows: Sequence[RankingRow], top: int | None = None) -> Table:
    """The ranking, by H.

    Args:
        top: show only so many methods and the floor.
    """
    columns = [column for column in COLUMNS if column.markdown]
    shown = []
    for column in columns:
        texts = [column.cell(row).text for row in rows]
        if column.title == "Method":
            texts = [_method(row.standing) for row in rows]
        elif column.bold:
            texts = bold_best([row.value(column.bold) for row in rows], texts)
        shown.append(texts)
    lines = [
        line
        for i, (line, row) in enumerate(zip(zip(*shown, strict=True), rows, strict=True))
        if top is None or i < top or row.kind == "floor"
    ]
    left = [i for i, column in enumerate(columns) if column.text]
    return table([column.title for column in columns], lines, left)


def transfer_table(page: SuitePage, transfer: str, upgrade: Upgrade, shots: int) -> Table:
    """Modules attached through a transfer, ranked among themselves, beside untouched ones."""
    untouched = {one.info.name: one for one in _standings(page, upgrade, shots)}
    rows = []
    for one in page.ranks(upgrade, shots, transfer):
        through, plain = one.standing, untouched.get(one.standing.info.name)
        before = {m: plain and _value(plain.mean(m)) for m in ("target", "h", "gain")}
        cells = [one.rank or NOTHING, _method(through), spread(through.mean("source"))]
        cells += [f"{percent(before[m])} → {spread(through.mean(m))}" for m in ("target", "h")]
        cells += [f"{signed(before['gain'])} → {signed(_value(through.mean('gain')))}"]
        rows.append(cells)
    return table(["Rank", "Method", "Source", "Target", "H", "Gain"], rows, left=(1,))


def average_ranks(page: SuitePage, upgrade: Upgrade, shots: int) -> tuple[str, Table] | None:
    """Friedman's test in a sentence, and the average ranks as a table.

    Methods that share a letter cannot be told apart by Nemenyi's critical difference.
    """
    found = rank_datasets(page.ranks(upgrade, shots))
    if found is None:
        return None
    standings, test = found
    groups: list[list[str]] = [[] for _ in standings]
    for number, clique in enumerate(rank_cliques(test.ranks, test.critical_difference)):
        again, letter = divmod(number, len(ascii_lowercase))  # the 27th is a2
        for method in clique:
            groups[method].append(ascii_lowercase[letter] + (str(again + 1) if again else ""))
    rows = [
        [_method(one), f"{rank:.1f}", " ".join(letters) or NOTHING]
        for one, rank, letters in zip(standings, test.ranks, groups, strict=True)
    ]
    p_value = "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.3f}"
    differ = "the methods differ" if test.p_value < ALPHA else "the methods cannot be told apart"
    text = (
        f"By rank on each of {test.datasets} datasets, {differ} (Friedman's test, χ² = "
        f"{test.statistic:.1f}, {p_value}). Two of these {len(standings)} methods differ if their "
        f"average ranks are {test.critical_difference:.1f} or more apart (Nemenyi, 5 %)."
    )
    return text, table(["Method", "Average rank", "Group"], rows, left=(0, 2))


def breakage_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """What the upgrade changes for users of the old module: flips, calibration, harmed datasets."""
    rows = []
    for row in rows_of(page.ranks(upgrade, shots)):
        one, harmed, worst = row.figures, NOTHING, NOTHING
        if one["harmed"] is not None:
            harmed = f"{one['harmed']} of {len(page.expected.tasks)}"
            worst = f"{signed(one['worst_gain'])} ({escape(page.task_title(one['worst_task']))})"
        relative = NOTHING if one["relative_nfr"] is None else f"{one['relative_nfr']:.2f}"
        nfr, pfr, inconsistent = (percent(one[name]) for name in ("nfr", "pfr", "inconsistent"))
        ece = f"{percent(one['source_ece'])} → {percent(one['target_ece'])}"
        rows.append([_method(row.standing), nfr, pfr, relative, inconsistent, ece, harmed, worst])
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
    on_sets = [
        [
            compute_standing(one.results, page.expected, upgrade, shots, (task, name))
            for one in standings
        ]
        for name in test_sets
    ]
    sides: list[list[list[str]]] = []  # [side, column, method]
    for measure in ("source", "target"):
        values = [[_value(one.mean(measure)) for one in on_set] for on_set in on_sets]
        values.append([mean_of_all(line) for line in zip(*values[1:], strict=True)])
        sides.append([_bold_percent(column) for column in values])
    columns = [list(map(" → ".join, zip(*both, strict=True))) for both in zip(*sides, strict=True)]
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
        means = follow_path(one.results, page.expected, path, shots)[figure]
        values = [_value(mean) for mean in means]
        cells, steps = [show(values[0])], changes(values)
        for after, change in zip(values[1:], steps, strict=True):
            cells.append(show(after) + (f" ({signed(change)})" if change is not None else ""))
        rows.append([_method(one), *cells, signed(mean_of_all(steps))])
    titles = [escape(page.backbone_title(name)) for name in path]
    return table(["Method", *titles, "Per step"], rows)


def shots_table(page: SuitePage, upgrade: Upgrade, measure: Measure) -> Table:
    """A measure by number of training images per class, in the order of H at the largest."""
    counts = sorted(page.expected.shots)
    standings = _standings(page, upgrade, counts[-1])
    methods = [one.results for one in standings]
    columns = [_column(page.standings(methods, upgrade, count), measure) for count in counts]
    return _by_method(standings, columns, [str(show_shots(count)) for count in counts])


def ablation_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """Every named config against the method that it configures: mean differences over datasets.

    A difference is in bold if its 95 % interval does not contain 0.
    """
    methods, rows = page.results.methods, []
    for name, base_name in page.configs.items():
        config, base = methods.get(name), methods.get(base_name)
        if config is None:
            continue
        cells = [NOTHING] * 5
        if base is not None:
            cells, interval = [_changed_settings(config, base)], None
            both = page.standings([config, base], upgrade, shots)
            for measure in ("source", "target", "h"):
                interval = paired_interval(both[0], both[1], measure)
                mark = "**" if interval is not None and interval.sign else ""
                cells.append(f"{mark}{signed(interval and interval.value)}{mark}")
            cells.append(bounds(interval, signed))
        rows.append([escape(config.info.title), *cells])
    header = ["Config", "Change", "Source", "Target", "H", "95 % of H"]
    return table(header, rows, left=(0, 1))


def retained_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """The gain of the old module beside that of one retrained on the target."""
    rows = []
    for one in _standings(page, upgrade, shots):
        if one.info.learns:
            *gains, kept = compute_retained(one.results, page.expected, upgrade, shots)
            shown = [signed(_value(mean)) for mean in gains]
            share = NOTHING if kept is None else f"{_whole(kept.value)} %"
            rows.append([_method(one), *shown, share, bounds(kept, _whole)])
    return table(["Method", "Old module", "Retrained", "Kept", "95 % of kept"], rows)


def cost_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """What every method takes, and the name by which commands know it."""
    rows = []
    for row in ranking_rows(page, upgrade, shots):
        one = row.figures
        method, name = _method(row.standing, row.transfer), code(one["method"])
        sizes = [_bytes(one[name]) for name in ("module_bytes", "peak_memory")]
        times = [duration(one[name]) for name in ("fit_seconds", "evaluate_seconds")]
        rows.append([method, name, format_parameters(row), sizes[0], *times, sizes[1]])
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
    return table(["Setting", "Published", "This suite", "Methods"], rows, left=range(4))


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


def _method(standing: Standing, transfer: str = "") -> str:
    """The title, linked; the zero-shot classifier, which inserts nothing, is the floor."""
    title = linked(standing.info.title, standing.info.paper)
    note = "floor" if standing.info.depth == "none" else escape(transfer)
    return f"{title} ({note})" if note else title


def _value(mean: Mean | None) -> float | None:
    return None if mean is None else mean.value


def _bold_percent(values: Sequence[float | None]) -> list[str]:
    return bold_best(values, [percent(one) for one in values])


def _column(standings: Iterable[Standing], measure: Measure, task: str | None = None) -> list[str]:
    return _bold_percent([_value(one.mean(measure, task)) for one in standings])


def _by_method(
    standings: Sequence[Standing], columns: Sequence[Sequence[str]], titles: Sequence[str]
) -> Table:
    return table(["Method", *titles], zip(map(_method, standings), *columns, strict=True))


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
    return NOTHING if share is None else str(round(share))
