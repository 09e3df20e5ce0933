"""The tables of a suite besides its ranking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from compatbench.data.cards.shots import show_shots
from compatbench.results.expected import Upgrade
from compatbench.results.method_results import join_provenance
from compatbench.results.published import compare_published
from compatbench.results.ranks import exact
from compatbench.results.standing import (
    MeasureName,
    Standing,
    compute_retained,
    compute_standing,
    follow_path,
    mean_of_all,
)
from compatbench.tables.markdown import slug
from compatbench.tables.measure_columns import measure_column
from compatbench.tables.numbers import NOTHING, bounds, duration, percent, signed, size
from compatbench.tables.ranking import format_parameters, method_cell
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import (
    Cell,
    Column,
    Table,
    code,
    join,
    make_table,
    mark_best,
    number,
    plain_table,
    sentence,
    spread,
    text,
)

_METHOD = Column("method", "Method", left=True)


def transfer_table(page: SuitePage, transfer: str, upgrade: Upgrade, shots: int) -> Table:
    """Modules attached through a transfer, ranked among themselves, beside untouched ones."""
    untouched = {standing.info.name: standing for standing in _standings(page, upgrade, shots)}
    rows = []
    for ranked in page.ranks(upgrade, shots, transfer):
        through, plain = ranked.standing, untouched.get(ranked.standing.info.name)
        before = {name: plain and exact(plain.mean(name)) for name in ("target", "h", "gain")}
        figures = [
            join([number(percent(before[name])), spread(through.mean(name))])
            for name in ("target", "h")
        ]
        gain = number(f"{signed(before['gain'])} → {signed(exact(through.mean('gain')))}")
        first = number(ranked.rank or NOTHING), method_cell(through.info)
        rows.append([*first, spread(through.mean("source")), *figures, gain])
    return plain_table(["Rank", "Method", "Source", "Target", "H", "Gain"], rows, left=(1,))


def breakage_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """What the upgrade changes for users of the old module: flips, calibration, harmed datasets."""
    columns = [
        _METHOD,
        measure_column("negative_flips"),
        measure_column("positive_flips"),
        Column("relative_nfr", "Relative NFR", show="{:.2f}".format),
        measure_column("inconsistent_errors"),
        Column("ece", "ECE"),
        Column("harmed", "Harmed"),
        Column("worst", "Worst"),
    ]
    records = []
    for row in page.ranks(upgrade, shots):
        figures = row.figures
        record: dict[str, Any] = {column.key: row.value(column.key) for column in columns[1:3]}
        record["method"] = method_cell(row.standing.info)
        record["relative_nfr"] = figures["relative_nfr"]
        record["inconsistent_errors"] = figures["inconsistent"]
        record["ece"] = number(
            f"{percent(figures['source_ece'])} → {percent(figures['target_ece'])}"
        )
        if figures["harmed"] is not None:
            record["harmed"] = number(f"{figures['harmed']} of {len(page.expected.tasks)}")
            worst = page.task_title(figures["worst_task"])
            record["worst"] = sentence(f"{signed(figures['worst_gain'])} (", text(worst), ")")
        records.append(record)
    return make_table(columns, records)


def dataset_table(page: SuitePage, upgrade: Upgrade, shots: int, measure: MeasureName) -> Table:
    """One measure, methods × tasks and their mean."""
    standings, tasks = _standings(page, upgrade, shots), page.expected.tasks
    means = {page.task_title(task): [s.mean(measure, task) for s in standings] for task in tasks}
    means["Mean"] = [standing.mean(measure) for standing in standings]
    return _by_method(standings, {title: _best(map(exact, of)) for title, of in means.items()})


def variant_table(page: SuitePage, upgrade: Upgrade, shots: int, task: str) -> Table:
    """``source → target`` accuracy on a task, on each of its variants, and on these in mean."""
    standings = _standings(page, upgrade, shots)
    sides: list[dict[str, list[float | None]]] = []
    for side in ("source", "target"):
        by_set = {
            page.task_title(name): [
                exact(
                    compute_standing(
                        standing.results, page.expected, upgrade, shots, (task, name)
                    ).mean(side)
                )
                for standing in standings
            ]
            for name in (task, *page.expected.variants[task])
        }
        _, *variants = by_set.values()
        by_set["Mean of variants"] = [mean_of_all(of) for of in zip(*variants, strict=True)]
        sides.append(by_set)
    source, target = sides
    return _by_method(
        standings,
        {
            title: [*map(join, zip(_best(source[title]), _best(target[title]), strict=True))]
            for title in source
        },
    )


def published_tables(page: SuitePage, upgrade: Upgrade, shots: int) -> dict[str, Table]:
    """What was measured on the source beside what is published for it; empty if nothing is.

    Under an empty name means over those datasets of which both are there, variants left out; then
    a table for each test set. Methods are in the order of the ranking.
    """
    compared = compare_published(page.results, page.expected, upgrade[0], shots)
    if compared.empty:
        return {}
    means, by_set = [], {}
    for info in (standing.info for standing in _standings(page, upgrade, shots)):
        of_method = compared.loc[compared["method"] == info.name]
        on_tasks = of_method.loc[of_method["task"] == of_method["test_set"]]
        if len(on_tasks):
            differ = f"{(on_tasks['verdict'] == 'differs').sum()} of {len(on_tasks)}"
            mean = on_tasks[["measured", "published", "difference"]].mean().to_dict()
            means.append({**mean, "method": method_cell(info), "differ": number(differ)})
        for line in of_method.to_dict("records"):
            by_set.setdefault(line["test_set"], []).append(_published_line(info, line))
    columns = [
        _METHOD,
        Column("measured", "Measured", show=percent),
        Column("published", "Published", show=percent),
        Column("difference", "Difference", show=signed),
    ]
    more = [
        *columns,
        Column("chance", "By chance"),
        Column("verdict", "Verdict", left=True),
        Column("sources", "Sources", left=True),
    ]
    tables = {"": make_table([*columns, Column("differ", "Datasets that differ")], means)}
    return tables | {n: make_table(more, by_set[n]) for n in page.tasks if n in by_set}


def _published_line(info: Any, line: Mapping[str, Any]) -> dict[str, Any]:
    low, high, std = percent(line["low"]), percent(line["high"]), line["measured_std"]
    measured = number(percent(line["measured"]))
    if std == std:  # a number
        measured += number(f" ± {percent(std)}")
    chance = NOTHING if line["verdict"] == "one seed" else f"± {percent(line['chance'])}"
    return {
        "method": method_cell(info),
        "measured": measured,
        "published": number(low if low == high else f"{low} to {high}"),
        "difference": line["difference"],
        "chance": number(chance),
        "verdict": line["verdict"],
        "sources": line["sources"],
    }


def path_table(
    page: SuitePage, path: Sequence[str], shots: int, figure: Literal["accuracy", "gain"]
) -> Table:
    """A figure of every method at every model of a path, with what each step changes.

    Methods are in the order of H at the path's last model.
    """
    show = percent if figure == "accuracy" else signed
    rows = []
    for standing in _standings(page, (path[0], path[-1]), shots):
        along = follow_path(standing.results, page.expected, path, shots)[figure]
        values = [exact(mean) for mean in along]
        cells, steps = [number(show(values[0]))], []
        for before, after in pairwise(values):
            change = None if before is None or after is None else after - before
            steps.append(change)
            step = "" if change is None else f" ({signed(change)})"
            cells.append(number(show(after) + step, after))
        rows.append([method_cell(standing.info), *cells, number(signed(mean_of_all(steps)))])
    return plain_table(["Method", *map(page.backbone_title, path), "Per step"], rows)


def shots_table(page: SuitePage, upgrade: Upgrade, measure: MeasureName) -> Table:
    """A measure by number of training images per class, in the order of H at the largest."""
    counts = sorted(page.expected.shots)
    by_count = [{s.info.name: s for s in _standings(page, upgrade, count)} for count in counts]
    standings = list(by_count[-1].values())
    columns = {
        str(show_shots(count)): _best(exact(at[s.info.name].mean(measure)) for s in standings)
        for count, at in zip(counts, by_count, strict=True)
    }
    return _by_method(standings, columns)


def retained_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """The gain of the old module beside that of one retrained on the target."""
    rows = []
    for standing in _standings(page, upgrade, shots):
        if standing.info.learns:
            *gains, kept = compute_retained(standing.results, page.expected, upgrade, shots)
            shown = [signed(exact(mean)) for mean in gains]
            shown += [_whole(kept and kept.value), bounds(kept, _whole)]
            rows.append([method_cell(standing.info), *map(number, shown)])
    return plain_table(["Method", "Old module", "Retrained", "Kept, %", "95 % of kept"], rows)


def cost_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """What every method takes, and the name by which commands know it."""
    columns = [
        _METHOD,
        Column("name", "Name", left=True),
        Column("parameters", "Parameters"),
        Column("module_bytes", "Module", show=size),
        Column("fit_seconds", "Fit", show=duration),
        Column("evaluate_seconds", "Evaluate", show=duration),
        Column("peak_memory", "Peak memory", show=size),
    ]
    records = []
    for row in page.all_ranks(upgrade, shots):
        name = row.figures["method"]
        shown = {"method": method_cell(row.standing.info, row.transfer)}
        shown["name"] = code(name, f"methods.md#{slug(name)}")
        shown["parameters"] = number(format_parameters(row), row.figures["parameters"])
        records.append(row.figures | shown)
    return make_table(columns, records)


def task_table(page: SuitePage) -> Table:
    """Every test set, and its licence."""
    rows = []
    for task in page.expected.measured_tasks:
        kind = "development task" if task in page.expected.development else "task"
        for name in (task, *page.expected.variants.get(task, ())):
            if name != task and page.expected.protocol == "few-shot":
                kind = f"variant of {page.task_title(task)}"
            elif name != task:
                kind = "other classes"
            licence = page.tasks[name].licence if name in page.tasks else ""
            rows.append([page.task_title(name), code(name), kind, licence])
    return plain_table(["Test set", "Name", "Kind", "Licence"], rows, left=range(4))


def provenance_table(page: SuitePage) -> Table:
    """Versions and processors, all values together where rows differ."""
    joined = join_provenance(method.provenance for method in page.results.all)
    rows = [[name, ", ".join(values)] for name, values in joined.items()]
    return plain_table(["What", "Version"], rows, left=(0, 1))


def _standings(page: SuitePage, upgrade: Upgrade, shots: int) -> list[Standing]:
    """Of untouched modules, in the order of the ranking."""
    return [ranked.standing for ranked in page.ranks(upgrade, shots)]


def _best(values: Iterable[float | None]) -> list[Cell]:
    """A column of percentages, the highest in bold."""
    return mark_best([number(percent(value), value) for value in values])


def _by_method(standings: Sequence[Standing], columns: Mapping[str, Sequence[Cell]]) -> Table:
    """A line for every method, with a column per title."""
    methods = [method_cell(standing.info) for standing in standings]
    return plain_table(["Method", *columns], zip(methods, *columns.values(), strict=True))


def _whole(share: float | None) -> str:
    return NOTHING if share is None else "< 0" if round(share) < 0 else str(round(share))
