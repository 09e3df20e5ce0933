"""The Markdown tables of a suite; every text in their cells is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

from compatbench.data.cards.shots import show_shots
from compatbench.results.bootstrap import compute_retained
from compatbench.results.expected import Upgrade
from compatbench.results.published import compare_published
from compatbench.results.ranks import Ranked, exact
from compatbench.results.standing import (
    MeasureName,
    Standing,
    compute_standing,
    follow_path,
    mean_of_all,
)
from compatbench.results.store import MethodInfo, join_provenance
from compatbench.tables import markdown as md
from compatbench.tables.markdown import NOTHING, escape, percent, signed, table
from compatbench.tables.ranking import COLUMNS, format_parameters, gap_rows, row_cells
from compatbench.tables.suite_page import SuitePage

Table = list[str]
Figures = Sequence[float | None]


def ranking_table(
    rows: Sequence[Ranked],
    top: int | None = None,
    floors: int | None = None,
    columns: Sequence[str] | None = None,
) -> Table:
    """The ranking, by H; if ``top`` is given, only so many methods and the first floors below."""
    by_column = zip(*map(row_cells, rows), strict=True) if rows else [[]] * len(COLUMNS)
    kept = [
        (one, cells)
        for one, cells in zip(COLUMNS, by_column, strict=True)
        if one.markdown and (columns is None or one.title in columns)
    ]
    shown = []
    for column, cells in kept:
        texts = [cell.text for cell in cells]
        if column.title == "Method":
            texts = [_method(row.standing.info) for row in rows]
        elif column.bold:
            texts = md.bold_best([row.value(column.bold) for row in rows], texts)
        shown.append(texts)
    ranked_floors = (i for i, row in enumerate(rows) if row.kind == "floor" and row.rank)
    below = [i for i in ranked_floors if i >= (top or 0)][:floors]
    lines = list(zip(*shown, strict=True))
    if top is not None:
        lines = [*lines[:top], *(lines[i] for i in below)]
    left = [i for i, (column, _) in enumerate(kept) if column.text]
    return table([column.title for column, _ in kept], lines, left)


def transfer_table(page: SuitePage, transfer: str, upgrade: Upgrade, shots: int) -> Table:
    """Modules attached through a transfer, ranked among themselves, beside untouched ones."""
    untouched = {one.info.name: one for one in _standings(page, upgrade, shots)}
    rows = []
    for ranked in page.ranks(upgrade, shots, transfer):
        one, plain = ranked.standing, untouched.get(ranked.standing.info.name)
        before = {m: plain and exact(plain.mean(m)) for m in ("target", "h", "gain")}
        cells = [ranked.rank or NOTHING, _method(one.info), md.spread(one.mean("source"))]
        cells += [f"{percent(before[m])} → {md.spread(one.mean(m))}" for m in ("target", "h")]
        rows.append([*cells, f"{signed(before['gain'])} → {signed(exact(one.mean('gain')))}"])
    return table(["Rank", "Method", "Source", "Target", "H", "Gain"], rows, left=(1,))


def breakage_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """What the upgrade changes for users of the old module: flips, calibration, harmed datasets."""
    rows = []
    for row in page.ranks(upgrade, shots):
        one, harmed, worst = row.figures, NOTHING, NOTHING
        if one["harmed"] is not None:
            harmed = f"{one['harmed']} of {len(page.expected.tasks)}"
            worst = f"{signed(one['worst_gain'])} ({escape(page.task_title(one['worst_task']))})"
        relative = NOTHING if one["relative_nfr"] is None else f"{one['relative_nfr']:.2f}"
        nfr, pfr, inconsistent = (percent(one[name]) for name in ("nfr", "pfr", "inconsistent"))
        ece = f"{percent(one['source_ece'])} → {percent(one['target_ece'])}"
        method = _method(row.standing.info)
        rows.append([method, nfr, pfr, relative, inconsistent, ece, harmed, worst])
    header = ["Method", "NFR", "PFR", "Relative NFR", "Inconsistent", "ECE", "Harmed", "Worst"]
    return table(header, rows)


def dataset_table(page: SuitePage, upgrade: Upgrade, shots: int, measure: MeasureName) -> Table:
    """One measure, methods × tasks and their mean."""
    standings, tasks = _standings(page, upgrade, shots), page.expected.tasks
    columns = [[exact(one.mean(measure, t)) for one in standings] for t in (*tasks, None)]
    return _by_method(standings, [*map(page.task_title, tasks), "Mean"], columns)


def variant_table(page: SuitePage, upgrade: Upgrade, shots: int, task: str) -> Table:
    """``source → target`` accuracy on a task, on each of its variants, and on these in mean."""
    standings = _standings(page, upgrade, shots)
    test_sets = (task, *page.expected.variants[task])
    sides: list[list[Figures]] = [[], []]  # source and target, [column, method]
    for name in test_sets:
        on_set = [
            compute_standing(one.results, page.expected, upgrade, shots, (task, name))
            for one in standings
        ]
        sides[0].append([exact(one.mean("source")) for one in on_set])
        sides[1].append([exact(one.mean("target")) for one in on_set])
    for side in sides:
        side.append([mean_of_all(values) for values in zip(*side[1:], strict=True)])
    titles = [*map(page.task_title, test_sets), "Mean of variants"]
    return _by_method(standings, titles, *sides)


def published_tables(page: SuitePage, upgrade: Upgrade, shots: int) -> dict[str, Table]:
    """What was measured on the source beside what is published for it; empty if nothing is.

    Under an empty name means over those datasets of which both are there, variants left out; then
    a table for each test set. Methods are in the order of the ranking.
    """
    found = compare_published(page.results, page.expected, upgrade[0], shots)
    if found.empty:
        return {}
    titles = {one.info.name: _method(one.info) for one in _standings(page, upgrade, shots)}
    lines: dict[str, list[list[str]]] = {"": []}
    for method, title in titles.items():
        own = found.loc[found["method"] == method]
        tasks = own.loc[own["task"] == own["test_set"]]
        means = tasks[["measured", "published", "difference"]].mean()
        if len(tasks):
            differ = f"{(tasks['verdict'] == 'differs').sum()} of {len(tasks)}"
            cells = [percent(means["measured"]), percent(means["published"])]
            lines[""].append([title, *cells, signed(means["difference"]), differ])
        for one in own.to_dict("records"):
            low, high = percent(one["low"]), percent(one["high"])
            measured = percent(one["measured"])
            if one["measured_std"] == one["measured_std"]:
                measured += f" ± {percent(one['measured_std'])}"
            cells = [title, measured, low if low == high else f"{low} to {high}"]
            chance = NOTHING if one["verdict"] == "one seed" else f"± {percent(one['chance'])}"
            cells += [signed(one["difference"]), chance, one["verdict"], escape(one["sources"])]
            lines.setdefault(one["test_set"], []).append(cells)
    order = [name for name in page.tasks if name in lines]
    header = ["Method", "Measured", "Published", "Difference"]
    more = [*header, "By chance", "Verdict", "Sources"]
    tables = {name: table(more, lines[name], left=(0, 5, 6)) for name in order}
    return {"": table([*header, "Datasets that differ"], lines[""])} | tables


def path_table(
    page: SuitePage, path: Sequence[str], shots: int, figure: Literal["accuracy", "gain"]
) -> Table:
    """A figure of every method at every model of a path, with what each step changes.

    Methods are in the order of H at the path's last model.
    """
    show = percent if figure == "accuracy" else signed
    rows = []
    for one in _standings(page, (path[0], path[-1]), shots):
        values = list(map(exact, follow_path(one.results, page.expected, path, shots)[figure]))
        cells, steps = [show(values[0])], []
        for before, after in pairwise(values):
            change = None if before is None or after is None else after - before
            steps.append(change)
            cells.append(show(after) + (f" ({signed(change)})" if change is not None else ""))
        rows.append([_method(one.info), *cells, signed(mean_of_all(steps))])
    titles = [escape(page.backbone_title(name)) for name in path]
    return table(["Method", *titles, "Per step"], rows)


def shots_table(page: SuitePage, upgrade: Upgrade, measure: MeasureName) -> Table:
    """A measure by number of training images per class, in the order of H at the largest."""
    counts = sorted(page.expected.shots)
    by_count = [{one.info.name: one for one in _standings(page, upgrade, n)} for n in counts]
    standings = list(by_count[-1].values())
    columns = [[exact(at[one.info.name].mean(measure)) for one in standings] for at in by_count]
    return _by_method(standings, [str(show_shots(count)) for count in counts], columns)


def retained_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """The gain of the old module beside that of one retrained on the target."""
    rows = []
    for one in _standings(page, upgrade, shots):
        if one.info.learns:
            *gains, kept = compute_retained(one.results, page.expected, upgrade, shots)
            share = _whole(kept and kept.value)
            cells = [*(signed(exact(mean)) for mean in gains), share, md.bounds(kept, _whole)]
            rows.append([_method(one.info), *cells])
    return table(["Method", "Old module", "Retrained", "Kept, %", "95 % of kept"], rows)


def cost_table(page: SuitePage, upgrade: Upgrade, shots: int) -> Table:
    """What every method takes, and the name by which commands know it."""
    rows = []
    for row in page.all_ranks(upgrade, shots):
        one = row.figures
        module, memory = (md.size(one[name]) for name in ("module_bytes", "peak_memory"))
        times = [md.duration(one[name]) for name in ("fit_seconds", "evaluate_seconds")]
        method = _method(row.standing.info, row.transfer)
        name = f"[{md.code(one['method'])}](methods.md#{md.slug(one['method'])})"
        rows.append([method, name, format_parameters(row), module, *times, memory])
    header = ["Method", "Name", "Parameters", "Module", "Fit", "Evaluate", "Peak memory"]
    return table(header, rows, left=(0, 1))


def gap_table(page: SuitePage) -> Table | None:
    """Failed and missing measurements: how many, the first place, and the reason."""
    rows = [[escape(text) or NOTHING for text in row] for row in gap_rows(page)]
    header = ["Method", "What", "Rows", "First", "Reason"]
    return table(header, rows, left=(0, 1, 3, 4)) if rows else None


def task_table(page: SuitePage) -> Table:
    """Every test set, and its licence."""
    rows = []
    for task in page.expected.measured_tasks:
        own = "development task" if task in page.expected.development else "task"
        for name in (task, *page.expected.variants.get(task, ())):
            shared = page.expected.protocol == "few-shot"
            kind = f"variant of {escape(page.task_title(task))}" if shared else "other classes"
            kind = own if name == task else kind
            licence = page.tasks[name].licence if name in page.tasks else ""
            rows.append([escape(page.task_title(name)), md.code(name), kind, escape(licence)])
    return table(["Test set", "Name", "Kind", "Licence"], rows, left=range(4))


def provenance_table(page: SuitePage) -> Table:
    """Versions and processors, all values together where rows differ."""
    joined = join_provenance(method.provenance for method in page.results.all)
    rows = [[escape(name), escape(", ".join(values))] for name, values in joined.items()]
    return table(["What", "Version"], rows, left=(0, 1))


def _standings(page: SuitePage, upgrade: Upgrade, shots: int) -> list[Standing]:
    """Of untouched modules, in the order of the ranking."""
    return [one.standing for one in page.ranks(upgrade, shots)]


def _method(info: MethodInfo, transfer: str = "") -> str:
    """The title, linked; the zero-shot classifier, which inserts nothing, is the floor."""
    title = md.linked(info.title, info.paper)
    note = "floor" if info.depth == "none" else escape(transfer)
    note = " ".join(filter(None, (note, info.sees_tests * "transductive")))
    return f"{title} ({note})" if note else title


def _by_method(
    standings: Sequence[Standing], titles: Iterable[str], *sides: Sequence[Figures]
) -> Table:
    """A line for every method; each side has a column per title, whose best is in bold."""
    shown = [[md.bold_best(values, list(map(percent, values))) for values in one] for one in sides]
    columns = [map(" → ".join, zip(*both, strict=True)) for both in zip(*shown, strict=True)]
    methods = [_method(one.info) for one in standings]
    return table(["Method", *map(escape, titles)], zip(methods, *columns, strict=True))


def _whole(share: float | None) -> str:
    return NOTHING if share is None else "< 0" if round(share) < 0 else str(round(share))
