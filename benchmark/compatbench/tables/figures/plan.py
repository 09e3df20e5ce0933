"""Which figures a set of results gives, and their files in ``results/figures/``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compatbench.data.cards.shots import count_shots
from compatbench.messages import one_line
from compatbench.results.expected import Upgrade
from compatbench.results.method_results import remembered
from compatbench.results.ranks import Ranked
from compatbench.tables.figures.kinds import list_kinds
from compatbench.tables.figures.render import render_svg_figure
from compatbench.tables.figures.spec_parts import Shown
from compatbench.tables.figures.values import (
    cost_values,
    matrix_values,
    scatter_values,
)
from compatbench.tables.suite_page import SuitePage

_INCOMPLETE = "no method has all of its cells yet"
_MOST = 50  # methods of a transfer in a figure; more could not be read
_NOTHING = Shown([], {})


@dataclass(frozen=True)
class PlannedFigure:
    """A figure that can be drawn, or the reason why it cannot."""

    suite: str
    section: str  # of the report: the name of a kind
    number: int  # of the suite's upgrade or path, from 1
    heading: str  # what of: an upgrade or a path, and shots
    shown: Shown
    missing: str = ""  # why there is nothing to draw; empty if there is
    said: str = ""  # of what there is no mark
    in_file: Shown | None = None  # what the file shows, if that is less

    @property
    def name(self) -> str:
        """``mini-scatter-1``: of its file, without ``.svg``."""
        return f"{self.suite}-{self.section}-{self.number}"

    def render(self) -> bytes:
        """The SVG."""
        kind = list_kinds()[self.section]
        label = f"{kind.title}: {self.heading}"
        return render_svg_figure(kind, self.in_file or self.shown, label, self.said)


def plan_figures(pages: Sequence[SuitePage]) -> list[PlannedFigure]:
    """Every figure that the suites' results give.

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


@remembered
def figures_of_upgrade(page: SuitePage, upgrade: Upgrade, shots: int) -> list[PlannedFigure]:
    """The figures of one ranking."""
    transfers, number = page.results.transfers, page.expected.upgrades.index(upgrade) + 1
    ranks = [page.ranks(upgrade, shots, name) for name in transfers]
    rows = [row for ranked in ranks for row in _best(ranked)]
    finished = [[row for row in ranked if row.value("h") is not None] for ranked in ranks]
    complete = [row for ranked in finished for row in _best(ranked)]
    plain = [row for row in complete if not row.transfer]
    alike = [row for row in plain if not row.sees_tests]  # the rows of the main table
    heading = one_line(f"{page.path_title(upgrade)}, {count_shots(shots)}")

    def of(shown: Sequence[Ranked], groups: Sequence[Sequence[Ranked]]) -> str:
        count = sum(map(len, groups))
        left_out = f", the {_MOST} best by each transfer and zero-shot, out of {count}"
        return heading + left_out * (count > len(shown))

    alone, said = of(plain, finished[:1]), _say_missing(ranks[0])
    scatter = scatter_values(complete) if plain else _NOTHING
    missing = "" if plain else _INCOMPLETE
    planned = (
        ("scatter", of(complete, finished), scatter, missing, said),
        ("matrix", of(rows, ranks), matrix_values(page, rows), "", ""),
        ("size", alone, cost_values(plain, "parameters") if plain else _NOTHING, missing, said),
        ("time", alone, cost_values(plain, "fit_seconds") if plain else _NOTHING, missing, said),
    )
    files = {"scatter": scatter_values(alike) if alike else None}
    return [
        PlannedFigure(
            page.card.name, section, number, title, shown, why_not, of_what, files.get(section)
        )
        for section, title, shown, why_not, of_what in planned
    ]


def _say_missing(rows: Sequence[Ranked]) -> str:
    """The methods of a ranking that have no H, and so no mark."""
    missing = [row.title for row in rows if row.value("h") is None]
    if not missing:
        return ""
    more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
    return f"No H, so no mark: {', '.join(missing[:4])}{more}."


def _best(rows: Sequence[Ranked]) -> list[Ranked]:
    """The first methods of a ranking, and zero-shot."""
    return [row for place, row in enumerate(rows) if place < _MOST or row.kind == "floor"]


@remembered
def figures_of_suite(page: SuitePage) -> list[PlannedFigure]:
    """The figures of several rankings together: along shots or paths, and so on."""
    figures = []
    for kind in list_kinds().values():
        drawn = kind.of_suite(page) if kind.of_suite else ()
        for number, (title, (values, signals)) in enumerate(drawn, 1):
            heading = one_line(title)
            if len(values) > _MOST:
                heading += f", the {_MOST} best of {len(values)} methods"
            missing, best = "" if values else _INCOMPLETE, Shown(values[:_MOST], signals)
            figures.append(PlannedFigure(page.card.name, kind.name, number, heading, best, missing))
    return figures
