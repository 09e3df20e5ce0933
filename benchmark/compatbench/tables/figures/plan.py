"""Which figures a set of results gives, and their files in ``results/figures/``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from compatbench.data.cards.shots import count_shots
from compatbench.messages import one_line
from compatbench.results.expected import Upgrade
from compatbench.results.ranks import Ranked
from compatbench.tables.class_tables import has_other_classes
from compatbench.tables.figures.render import render_svg_figure
from compatbench.tables.figures.spec_parts import Shown
from compatbench.tables.figures.values import (
    class_values,
    cost_values,
    matrix_values,
    path_values,
    price_values,
    rank_values,
    scatter_values,
    shots_values,
)
from compatbench.tables.price_tables import has_prices
from compatbench.tables.suite_page import SuitePage

TITLES = {
    "scatter": "Source against target",
    "matrix": "Upgrade matrix",
    "ranks": "Critical differences",
    "size": "What a good H costs: parameters",
    "time": "What a good H costs: seconds",
    "shots": "More images",
    "decay": "Along a path of upgrades",
    "price": "Accuracy against labels",
    "classes": "Known against other classes",
}
_INCOMPLETE = "no method has all of its cells yet"
_MOST = 50  # methods of a transfer in a figure; more could not be read
_NOTHING = Shown([], {})


@dataclass(frozen=True)
class PlannedFigure:
    """A figure that can be drawn, or the reason why it cannot."""

    suite: str
    section: str  # of the report; a key of ``TITLES`` and of ``specs.SPECS``
    number: int  # of the suite's upgrade or path, from 1
    heading: str  # what of: an upgrade or a path, and shots
    shown: Shown
    missing: str = ""  # why there is nothing to draw; empty if there is

    @property
    def name(self) -> str:
        """``mini-scatter-1``: of its file, without ``.svg``."""
        return f"{self.suite}-{self.section}-{self.number}"

    def render(self) -> bytes:
        """The SVG, with a digest of its data and the version of vl-convert at its end."""
        return render_svg_figure(
            self.section, self.shown, f"{TITLES[self.section]}: {self.heading}"
        )


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


def figures_of_upgrade(page: SuitePage, upgrade: Upgrade, shots: int) -> Iterator[PlannedFigure]:
    """The figures of one ranking."""
    transfers, number = page.results.transfers, page.expected.upgrades.index(upgrade) + 1
    ranks = [page.ranks(upgrade, shots, name) for name in transfers]
    rows = [one for ranked in ranks for one in _best(ranked)]
    finished = [[row for row in ranked if row.value("h") is not None] for ranked in ranks]
    complete = [one for ranked in finished for one in _best(ranked)]
    plain = [row for row in complete if not row.transfer]
    heading = one_line(f"{page.path_title(upgrade)}, {count_shots(shots)}")

    def of(shown: Sequence[Ranked], found: Sequence[Sequence[Ranked]]) -> str:
        count = sum(map(len, found))
        left_out = f", the {_MOST} best by each transfer and zero-shot, out of {count}"
        return heading + left_out * (count > len(shown))

    alone = of(plain, finished[:1])
    scatter = scatter_values(complete) if plain else _NOTHING
    missing = "" if plain else _INCOMPLETE
    ranked, too_few = rank_values(page.ranks(upgrade, shots), _MOST), ""
    if ranked is None:
        too_few = (
            "the test needs three methods with all of their cells, and two datasets; there are "
            f"{len(plain)} and {len(page.expected.tasks)}"
        )
    planned = (
        ("scatter", of(complete, finished), scatter, missing),
        ("matrix", of(rows, ranks), matrix_values(page, rows), ""),
        ("ranks", alone, ranked or _NOTHING, too_few),
        ("size", alone, cost_values(plain, "parameters") if plain else _NOTHING, missing),
        ("time", alone, cost_values(plain, "fit_seconds") if plain else _NOTHING, missing),
    )
    for section, title, shown, why_not in planned:
        yield PlannedFigure(page.name, section, number, title, shown, why_not)


def _best(rows: Sequence[Ranked]) -> list[Ranked]:
    """The first methods of a ranking, and zero-shot."""
    return [one for place, one in enumerate(rows) if place < _MOST or one.kind == "floor"]


def figures_of_suite(page: SuitePage) -> Iterator[PlannedFigure]:
    """The figures of several rankings together: along shots or paths, and so on."""
    upgrades = [one_line(page.path_title(upgrade)) for upgrade in page.expected.upgrades]
    if len(page.expected.shots) > 1:
        shown = [shots_values(page, upgrade) for upgrade in page.expected.upgrades]
        yield from _planned(page, "shots", upgrades, shown)
    paths = [
        f"{' → '.join(one_line(page.backbone_title(name), 60) for name in path)}, "
        f"{count_shots(max(page.expected.shots))}"
        for path in page.paths
    ]
    yield from _planned(page, "decay", paths, [path_values(page, path) for path in page.paths])
    if has_prices(page):
        shown = [price_values(page, upgrade) for upgrade in page.expected.upgrades]
        yield from _planned(page, "price", upgrades, shown)
    if has_other_classes(page):
        shown = [class_values(page, upgrade) for upgrade in page.expected.upgrades]
        yield from _planned(page, "classes", upgrades, shown)


def _planned(
    page: SuitePage, section: str, headings: Sequence[str], shown: Sequence[Shown]
) -> Iterator[PlannedFigure]:
    for number, (heading, (values, signals)) in enumerate(zip(headings, shown, strict=True), 1):
        if len(values) > _MOST:
            heading += f", the {_MOST} best of {len(values)} methods"
        missing, best = "" if values else _INCOMPLETE, Shown(values[:_MOST], signals)
        yield PlannedFigure(page.name, section, number, heading, best, missing)
