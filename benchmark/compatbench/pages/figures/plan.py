"""Which figures a set of results gives, and their files in ``results/figures/``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from compatbench.data.shots import count_shots
from compatbench.pages.figures.curves import draw_shots, shots_curves
from compatbench.pages.figures.matrix import draw_matrix
from compatbench.pages.figures.pareto import draw_pareto, with_cost
from compatbench.pages.figures.paths import draw_decay, draw_steps, path_lines
from compatbench.pages.figures.rank_diagram import draw_rank_diagram
from compatbench.pages.figures.scatter import draw_scatter
from compatbench.pages.figures.style import Hover, draw_svg
from compatbench.pages.markdown import one_line
from compatbench.pages.ranking import RankingRow, ranking_rows
from compatbench.pages.suite_page import FIGURES, SuitePage
from compatbench.results.intervals import rank_datasets
from compatbench.results.measures import Upgrade

Section = Literal["scatter", "matrix", "ranks", "pareto", "shots", "decay", "steps"]

TITLES: dict[Section, str] = {
    "scatter": "Source against target",
    "matrix": "Upgrade matrix",
    "ranks": "Critical differences",
    "pareto": "What a good H costs",
    "shots": "More images",
    "decay": "Along a path of upgrades",
    "steps": "Step by step",
}
_INCOMPLETE = "no method has all of its cells yet"


@dataclass(frozen=True)
class PlannedFigure:
    """A figure that can be drawn, or the reason why it cannot.

    Attributes:
        name: of its file, without ``.svg``; ``mini-scatter-1`` is of the suite's first upgrade.
        heading: what of: an upgrade or a path, and shots.
        draw: makes the matplotlib figure.
        facts: all that it shows, for its digest.
        missing: why there is nothing to draw; empty if there is.
    """

    name: str
    section: Section
    heading: str
    draw: Callable[[Hover], Any]
    facts: Any
    missing: str = ""

    def render(self) -> bytes:
        """The SVG."""
        label = f"{TITLES[self.section]}: {self.heading}"
        return draw_svg(self.draw, self.facts, self.name, label)


def drawn_figures(results: Path) -> frozenset[str]:
    """The names of the figures beside the results."""
    return frozenset(path.stem for path in (results / FIGURES).glob("*.svg"))


def plan_figures(pages: Sequence[SuitePage]) -> list[PlannedFigure]:
    """Every figure that the suites' results give, and those of the sections under them.

    An upgrade at one number of shots has its figures once, from the first suite that has it: a
    suite that measures the same for another purpose adds only its own figures.
    """
    figures: list[PlannedFigure] = []
    seen: set[tuple[Upgrade, int]] = set()
    for page in chain.from_iterable((one, *one.sections) for one in pages):
        if not page.measured:
            continue
        shots = max(page.expected.shots)
        for number, upgrade in enumerate(page.expected.upgrades, 1):
            if (upgrade, shots) not in seen:
                seen.add((upgrade, shots))
                figures += _of_upgrade(page, upgrade, shots, number)
        figures += _of_shots(page)
        figures += _of_paths(page)
    return figures


def _of_upgrade(
    page: SuitePage, upgrade: Upgrade, shots: int, number: int
) -> Iterator[PlannedFigure]:
    tasks = page.expected.tasks
    titles = [one_line(page.task_title(task), 24) for task in tasks]
    rows = ranking_rows(page, upgrade, shots)
    complete = [row for row in rows if row.value("h") is not None]
    plain = [row for row in complete if not row.transfer]
    zero_shot = zero_shot_accuracies(rows)
    missing = "" if plain else _INCOMPLETE
    facts = (titles, zero_shot, [_facts(row, tasks) for row in rows])
    tested = rank_datasets(page.ranks(upgrade, shots))
    by_name = {row.figures["method"]: row for row in plain}
    ranked = [by_name[one.info.name] for one in tested[0]] if tested else []
    too_few = "" if tested else (
        "the test needs three methods with all of their cells, and two datasets; there are "
        f"{len(plain)} and {len(tasks)}"
    )  # fmt: skip
    test = tested[1] if tested else None
    costs = [with_cost(plain, what) for what in ("parameters", "seconds")]
    shown_costs = [[(row.title, cost) for row, cost, _ in points] for points in costs]
    parts: tuple[tuple[Section, Callable, tuple, Any, str], ...] = (
        ("scatter", draw_scatter, (complete, zero_shot), facts, missing),
        ("matrix", draw_matrix, (rows, tasks, titles), facts, ""),
        ("ranks", draw_rank_diagram, (ranked, test), facts, too_few),
        ("pareto", draw_pareto, (plain,), (facts, shown_costs), missing),
    )
    heading = one_line(f"{page.path_title(upgrade)}, {count_shots(shots)}")
    for section, draw, shown, of, why in parts:
        name = f"{page.name}-{section}-{number}"
        yield PlannedFigure(name, section, heading, partial(draw, *shown), of, why)


def _of_shots(page: SuitePage) -> Iterator[PlannedFigure]:
    counts = tuple(sorted(page.expected.shots))
    if len(counts) < 2:
        return
    for number, upgrade in enumerate(page.expected.upgrades, 1):
        curves = shots_curves(page, upgrade)
        rows = [row for count in counts for row in ranking_rows(page, upgrade, count)]
        shown = (curves, counts, zero_shot_accuracies(rows))
        heading, missing = one_line(page.path_title(upgrade)), "" if curves else _INCOMPLETE
        name, draw = f"{page.name}-shots-{number}", partial(draw_shots, *shown)
        yield PlannedFigure(name, "shots", heading, draw, shown, missing)


def _of_paths(page: SuitePage) -> Iterator[PlannedFigure]:
    parts: tuple[tuple[Section, Callable], ...] = (("decay", draw_decay), ("steps", draw_steps))
    for number, path in enumerate(page.paths, 1):
        shown = (path_lines(page, path), [one_line(page.backbone_title(name), 60) for name in path])
        shots = count_shots(max(page.expected.shots))
        heading, missing = f"{' → '.join(shown[1])}, {shots}", "" if shown[0] else _INCOMPLETE
        for section, draw in parts:
            name = f"{page.name}-{section}-{number}"
            yield PlannedFigure(name, section, heading, partial(draw, *shown), shown, missing)


def zero_shot_accuracies(rows: Sequence[RankingRow]) -> tuple[float, float] | None:
    """Of source and target. They do not depend on the method: those of the first with all cells."""
    for row in rows:
        source, source_gain = row.value("source"), row.value("source_gain")
        target, gain = row.value("target"), row.value("gain")
        if source is None or source_gain is None or target is None or gain is None:
            continue
        return round(source - source_gain, 4), round(target - gain, 4)
    return None


def _facts(row: RankingRow, tasks: Sequence[str]) -> tuple:
    """What the figures show of a method, without times, which differ from run to run."""
    means = [row.value(measure) for measure in ("source", "target", "h", "gain")]
    by_task = [(row.task_value("h", task), row.task_value("gain", task)) for task in tasks]
    return row.title, row.kind, row.rank, means, by_task
