"""The figures that a set of results gives, and their files in ``results/figures/``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import pandas as pd

from compatbench.data.cards.shots import count_shots
from compatbench.messages import one_line
from compatbench.results.expected import Upgrade
from compatbench.results.ranking import rank_transfer
from compatbench.tables.figures.charts import FigureData
from compatbench.tables.figures.figure_kinds import MATRIX, SCATTER, list_kinds
from compatbench.tables.figures.render import Spec, compile_chart, fill_chart, render_chart
from compatbench.tables.figures.values import matrix_values, scatter_values
from compatbench.tables.suite_page import SuitePage

_INCOMPLETE = "no method has all of its cells yet"
_MOST = 50  # methods of a transfer in a figure; more could not be read
_NOTHING = FigureData([], {})


@dataclass(frozen=True)
class PlannedFigure:
    """A figure that can be drawn, or the reason why it cannot.

    Attributes:
        kind: the name of its kind.
        number: of the suite's upgrade, from 1.
        heading: what it is of, such as an upgrade and shots.
        data: what the site shows.
        missing: why there is nothing to draw; empty if there is.
        note: methods without a mark.
        in_file: what the file shows, if that is less.
    """

    suite: str
    kind: str
    number: int
    heading: str
    data: FigureData
    missing: str = ""
    note: str = ""
    in_file: FigureData | None = None

    @property
    def name(self) -> str:
        """``mini-scatter-1``: the name of its file, without ``.svg``."""
        return f"{self.suite}-{self.kind}-{self.number}"

    def render(self) -> bytes:
        """Return the figure as SVG."""
        kind = list_kinds()[self.kind]
        data = self.in_file or self.data
        label = f"{kind.title}: {self.heading}"
        spec = fill_chart(_compile(self.kind, tuple(data.params)), data)
        return render_chart(spec, label, self.note)


@cache
def _compile(kind: str, params: tuple[str, ...]) -> Spec:
    """Return the compiled chart of a kind of figure, as wide as in a file."""
    return compile_chart(list_kinds()[kind].draw(params))


def plan_figures(pages: Sequence[SuitePage]) -> list[PlannedFigure]:
    """Return every figure that the suites' results give.

    An upgrade at one number of shots has its figures once, from the first suite that has it: a
    suite that measures the same for another purpose adds only its own figures.
    """
    figures: list[PlannedFigure] = []
    seen: set[tuple[Upgrade, int]] = set()
    for page in pages:
        shots = max(page.expected.shots)
        for upgrade in page.expected.upgrades:
            if (upgrade, shots) not in seen:
                seen.add((upgrade, shots))
                figures += figures_of_upgrade(page, upgrade, shots)
        figures += figures_of_suite(page)
    return figures


@lru_cache(maxsize=256)
def figures_of_upgrade(page: SuitePage, upgrade: Upgrade, shots: int) -> list[PlannedFigure]:
    """Return the figures of one ranking: a scatter and a matrix."""
    suite = page.card.name
    number = page.expected.upgrades.index(upgrade) + 1
    upgrade_title = one_line(f"{page.path_title(upgrade)}, {count_shots(shots)}")
    ranking = page.ranking(upgrade, shots)
    complete = ranking[ranking["h"].notna()]

    marks = _best_of_each(complete)
    scatter = _NOTHING
    missing = _INCOMPLETE
    in_file = None
    copied = marks[marks["track_transfer"] == ""]
    if not copied.empty:
        scatter = scatter_values(marks)
        missing = ""
        # The file shows the methods of the main table alone.
        in_main_table = copied[~copied["sees_tests"]]
        if not in_main_table.empty:
            in_file = scatter_values(in_main_table)
    heading = upgrade_title + _say_left_out(marks, complete)
    note = _say_missing(rank_transfer(ranking))
    first = PlannedFigure(suite, SCATTER.name, number, heading, scatter, missing, note, in_file)

    shown = _best_of_each(ranking)
    heading = upgrade_title + _say_left_out(shown, ranking)
    matrix = matrix_values(page, upgrade, shots, shown)
    second = PlannedFigure(suite, MATRIX.name, number, heading, matrix)
    return [first, second]


def _best_of_each(ranking: pd.DataFrame) -> pd.DataFrame:
    """Return the first methods of each transfer, and zero-shot."""
    place = ranking.groupby("ranked_with", sort=False).cumcount()
    return ranking[(place < _MOST) | (ranking["kind"] == "floor")]


def _say_left_out(shown: pd.DataFrame, ranking: pd.DataFrame) -> str:
    if len(shown) == len(ranking):
        return ""
    return f", the {_MOST} best by each transfer and zero-shot, out of {len(ranking)}"


def _say_missing(ranking: pd.DataFrame) -> str:
    """Name the methods of a ranking that have no H, and so no mark."""
    missing = list(ranking.loc[ranking["h"].isna(), "shown_title"])
    if not missing:
        return ""
    more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
    return f"No H, so no mark: {', '.join(missing[:4])}{more}."


@lru_cache(maxsize=64)
def figures_of_suite(page: SuitePage) -> list[PlannedFigure]:
    """Return the figures of several rankings together, such as those along shots."""
    figures = []
    for kind in list_kinds().values():
        if kind.of_suite is None:
            continue
        for number, (title, data) in enumerate(kind.of_suite(page), 1):
            heading = one_line(title)
            if len(data.rows) > _MOST:
                heading += f", the {_MOST} best of {len(data.rows)} methods"
            missing = "" if data.rows else _INCOMPLETE
            best = FigureData(data.rows[:_MOST], data.params)
            figures.append(PlannedFigure(page.card.name, kind.name, number, heading, best, missing))
    return figures
