"""The tables of a suite besides its ranking."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

from compatbench.data.cards.shots import show_shots
from compatbench.results.expected import Upgrade
from compatbench.results.method_results import join_provenance
from compatbench.results.ranks import exact
from compatbench.results.standing import MeasureName, follow_path, mean_of_all
from compatbench.tables.numbers import percent, signed
from compatbench.tables.ranking import method_cell
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import Table, number, plain_table


def join_versions(pages: Iterable[SuitePage]) -> dict[str, tuple[str, ...]]:
    """Versions and processors, all values together where rows differ."""
    return join_provenance(method.provenance for page in pages for method in page.results.all)


def path_table(
    page: SuitePage, path: Sequence[str], shots: int, figure: Literal["accuracy", "gain"]
) -> Table:
    """A figure of every method at every model of a path, with what each step changes.

    Methods are in the order of H at the path's last model.
    """
    show = percent if figure == "accuracy" else signed
    rows = []
    for standing in page.by_name((path[0], path[-1]), shots).values():
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
    by_count = [page.by_name(upgrade, count) for count in counts]
    rows = []
    for name, standing in by_count[-1].items():
        values = [exact(standings[name].mean(measure)) for standings in by_count]
        cells = [number(percent(value), value) for value in values]
        rows.append([method_cell(standing.info), *cells])
    return plain_table(["Method", *(str(show_shots(count)) for count in counts)], rows)
