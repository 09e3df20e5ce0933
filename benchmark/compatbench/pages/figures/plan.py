"""Which figures a set of results gives, and their files in ``results/figures/``."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from matplotlib.figure import Figure

from compatbench.data.shots import count_shots
from compatbench.errors import one_line
from compatbench.files.hashes import sha256_bytes
from compatbench.pages.figures.line_figures import draw_decay, draw_shots, path_lines, shots_curves
from compatbench.pages.figures.ranking_figures import (
    draw_matrix,
    draw_pareto,
    draw_ranks,
    draw_scatter,
    with_cost,
)
from compatbench.pages.figures.svg import compact_svg, render_svg, svg_style
from compatbench.pages.suite_page import SuitePage
from compatbench.results.measures import Upgrade
from compatbench.results.ranks import Ranked, rank_datasets

TITLES = {
    "scatter": "Source against target",
    "matrix": "Upgrade matrix",
    "ranks": "Critical differences",
    "pareto": "What a good H costs",
    "shots": "More images",
    "decay": "Along a path of upgrades",
}
_INCOMPLETE = "no method has all of its cells yet"
_SIGNATURE = re.compile(rb"<!-- drawn from ([0-9a-f]{64}) by matplotlib (\S+) -->\n\Z")


@dataclass(frozen=True)
class PlannedFigure:
    """A figure that can be drawn, or the reason why it cannot."""

    suite: str
    section: str  # of the report; a key of ``TITLES``
    number: int  # of the suite's upgrade or path, from 1
    heading: str  # what of: an upgrade or a path, and shots
    draw: Callable[..., Figure]  # draws ``shown``, which has a ``repr`` that is always the same
    shown: tuple[Any, ...]
    missing: str = ""  # why there is nothing to draw; empty if there is

    @property
    def name(self) -> str:
        """``mini-scatter-1``: of its file, without ``.svg``."""
        return f"{self.suite}-{self.section}-{self.number}"

    def render(self) -> bytes:
        """The SVG, with a digest of its data and the version of matplotlib at its end."""
        label = f"{TITLES[self.section]}: {self.heading}"
        with svg_style("report", salt=self.name), warnings.catch_warnings():
            # Text stays text in the file, so a glyph that the measuring font lacks is no loss.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            svg = compact_svg(render_svg(self.draw(*self.shown)), label)
        digest = sha256_bytes(repr(self.shown).encode())
        return f"{svg}<!-- drawn from {digest} by matplotlib {version('matplotlib')} -->\n".encode()


def is_current(committed: bytes, rendered: bytes) -> bool:
    """Whether a file shows what the results give now.

    The same data give the same bytes with the same matplotlib. Another version may place
    a tick differently; then the digest of the data decides.
    """
    old, new = _SIGNATURE.search(committed), _SIGNATURE.search(rendered)
    if old is None or new is None or old[2] == new[2]:
        return committed == rendered
    return old[1] == new[1]


def plan_figures(pages: Sequence[SuitePage]) -> list[PlannedFigure]:
    """Every figure that the suites' results give.

    An upgrade at one number of shots has its figures once, from the first suite that has it: a
    suite that measures the same for another purpose adds only its own figures.
    """
    figures: list[PlannedFigure] = []
    seen: set[tuple[Upgrade, int]] = set()
    for page in pages:
        shots = max(page.expected.shots)
        for number, upgrade in enumerate(page.expected.upgrades, 1):
            if (upgrade, shots) not in seen:
                seen.add((upgrade, shots))
                figures += _of_upgrade(page, upgrade, shots, number)
        figures += [*_of_shots(page), *_of_paths(page)]
    return figures


def _of_upgrade(
    page: SuitePage, upgrade: Upgrade, shots: int, number: int
) -> Iterator[PlannedFigure]:
    rows, tasks = page.all_ranks(upgrade, shots), page.expected.tasks
    complete = [row for row in rows if row.value("h") is not None]
    plain = [row for row in complete if not row.transfer]
    missing = "" if plain else _INCOMPLETE
    too_few, ranked = "", ()
    if tested := rank_datasets(page.ranks(upgrade, shots)):
        best_first, test = tested
        ranks = [round(rank, 4) for rank in test.ranks]
        ranked = (best_first, ranks, round(test.critical_difference, 4), test.datasets)
    else:
        too_few = (
            "the test needs three methods with all of their cells, and two datasets; there are "
            f"{len(plain)} and {len(tasks)}"
        )
    titles = [one_line(page.task_title(task), 24) for task in tasks]
    costs = (with_cost(plain, "parameters"), with_cost(plain, "fit_seconds"))
    heading = one_line(f"{page.path_title(upgrade)}, {count_shots(shots)}")
    planned = (
        ("scatter", draw_scatter, (complete, zero_shot_accuracies(rows)), missing),
        ("matrix", draw_matrix, (rows, tasks, titles), ""),
        ("ranks", draw_ranks, ranked, too_few),
        ("pareto", draw_pareto, costs, missing),
    )
    for section, draw, shown, why_not in planned:
        yield PlannedFigure(page.name, section, number, heading, draw, shown, why_not)


def _of_shots(page: SuitePage) -> Iterator[PlannedFigure]:
    counts = sorted(page.expected.shots)
    for number, upgrade in enumerate(page.expected.upgrades if len(counts) > 1 else (), 1):
        curves = shots_curves(page, upgrade)
        rows = [row for count in counts for row in page.all_ranks(upgrade, count)]
        shown = (curves, counts, zero_shot_accuracies(rows))
        heading, missing = one_line(page.path_title(upgrade)), "" if curves else _INCOMPLETE
        yield PlannedFigure(page.name, "shots", number, heading, draw_shots, shown, missing)


def _of_paths(page: SuitePage) -> Iterator[PlannedFigure]:
    for number, path in enumerate(page.paths, 1):
        lines = path_lines(page, path)
        backbones = [one_line(page.backbone_title(name), 60) for name in path]
        heading = f"{' → '.join(backbones)}, {count_shots(max(page.expected.shots))}"
        shown, missing = (lines, backbones), "" if lines else _INCOMPLETE
        yield PlannedFigure(page.name, "decay", number, heading, draw_decay, shown, missing)


def zero_shot_accuracies(rows: Sequence[Ranked]) -> tuple[float, float] | None:
    """Of source and target. They do not depend on the method: those of the first with all cells."""
    for row in rows:
        source, source_gain = row.value("source"), row.value("source_gain")
        target, gain = row.value("target"), row.value("gain")
        if None not in (source, source_gain, target, gain):
            return round(source - source_gain, 4), round(target - gain, 4)  # type: ignore[operator]
    return None
