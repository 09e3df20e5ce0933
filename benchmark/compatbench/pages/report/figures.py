"""Which figures a set of results gives, and their files in ``results/figures/``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from compatbench.data.shots import count_shots
from compatbench.files.atomic import write_atomic
from compatbench.pages.report import canvas
from compatbench.pages.report.curves import draw_shots
from compatbench.pages.report.data import (
    path_figures,
    real_upgrades,
    shots_figures,
    upgrade_figures,
)
from compatbench.pages.report.matrix import draw_matrix
from compatbench.pages.report.pareto import draw_pareto
from compatbench.pages.report.rank_diagram import draw_rank_diagram
from compatbench.pages.report.scatter import draw_scatter
from compatbench.pages.report.steps import draw_decay, draw_steps
from compatbench.pages.suitepage import SuitePage
from compatbench.results.measures import Upgrade

FIGURES = Path("results", "figures")

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


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn, or the line that says why it cannot.

    Attributes:
        name: of its file, without ``.svg``; ``mini-scatter-1`` is of the suite's first upgrade.
        heading: what of: an upgrade or a path, and shots.
        missing: why there is nothing to draw; empty if there is.
    """

    name: str
    section: Section
    suite: str
    heading: str
    draw: Callable[[Any, canvas.Hover], Any]
    data: Any
    missing: str = ""

    def render(self) -> bytes:
        """The SVG."""
        return canvas.draw_svg(self.draw, self.data, f"{TITLES[self.section]}: {self.heading}")


def plan_drawings(pages: Sequence[SuitePage]) -> list[Drawing]:
    """Every figure that the suites' results give, and those of the sections under them.

    An upgrade at one number of shots has its figures once, from the first suite that has it,
    so that a suite which measures the same for another purpose adds its own figures alone.
    """
    drawings: list[Drawing] = []
    seen: set[tuple[Upgrade, int]] = set()
    for page in chain.from_iterable((one, *one.sections) for one in pages):
        if not page.results.all:
            continue
        shots = max(page.expected.shots)
        for number, upgrade in enumerate(real_upgrades(page), 1):
            if (upgrade, shots) not in seen:
                seen.add((upgrade, shots))
                drawings += _of_upgrade(page, upgrade, shots, number)
        drawings += _of_shots(page)
        drawings += _of_paths(page)
    return drawings


def render_figures(pages: Sequence[SuitePage], out: Path = Path()) -> dict[Path, bytes]:
    """The figures by path, ``<out>/results/figures/<suite>-<figure>-<n>.svg``.

    The same pages give the same bytes. What cannot be drawn has no path.

    Args:
        pages: suites in the order of the leaderboard.
        out: the folder that holds ``results/``.
    """
    return {
        out / FIGURES / f"{one.name}.svg": one.render()
        for one in plan_drawings(pages)
        if not one.missing
    }


def write_figures(pages: Sequence[SuitePage], out: Path = Path()) -> dict[Path, bytes]:
    """Writes the figures that have changed, and returns all.

    Raises:
        CompatbenchError: a folder that cannot be written.
    """
    figures = render_figures(pages, out)
    for path, svg in figures.items():
        if not path.is_file() or path.read_bytes() != svg:
            write_atomic(path, svg)
    return figures


def main_figures(page: SuitePage) -> dict[Section, str]:
    """The file names of the three figures to show first: scatter, matrix and ranks.

    They are of the suite's first upgrade; one that cannot be drawn is left out.
    """
    first = real_upgrades(page)[0]
    drawings = _of_upgrade(page, first, max(page.expected.shots), 1)
    return {
        one.section: f"{one.name}.svg"
        for one in drawings
        if one.section in ("scatter", "matrix", "ranks") and not one.missing
    }


def _of_upgrade(page: SuitePage, upgrade: Upgrade, shots: int, number: int) -> Iterator[Drawing]:
    data = upgrade_figures(page, upgrade, shots)
    heading = f"{data.source} → {data.target}, {count_shots(shots)}"
    no_h = "" if data.plain else "no method has all of its cells yet"
    too_few = "" if data.ranks else (
        "the test needs three methods with all of their cells, and two datasets; here are "
        f"{len(data.plain)} and {len(data.tasks)}"
    )  # fmt: skip
    parts: tuple[tuple[Section, Any, Any, str], ...] = (
        ("scatter", draw_scatter, data.timeless, no_h),
        ("matrix", draw_matrix, data.timeless, ""),
        ("ranks", draw_rank_diagram, data.ranks, too_few),
        ("pareto", draw_pareto, data, no_h),
    )
    for section, draw, shown, missing in parts:
        name = f"{page.name}-{section}-{number}"
        yield Drawing(name, section, page.name, heading, draw, shown, missing)


def _of_shots(page: SuitePage) -> Iterator[Drawing]:
    if len(page.expected.shots) < 2:
        return
    for number, upgrade in enumerate(real_upgrades(page), 1):
        data = shots_figures(page, upgrade)
        missing = "" if data.curves else "no method has all of its cells yet"
        heading = f"{data.source} → {data.target}"
        name = f"{page.name}-shots-{number}"
        yield Drawing(name, "shots", page.name, heading, draw_shots, data, missing)


def _of_paths(page: SuitePage) -> Iterator[Drawing]:
    parts: tuple[tuple[Section, Any], ...] = (("decay", draw_decay), ("steps", draw_steps))
    for number, path in enumerate(page.paths, 1):
        data = path_figures(page, path)
        missing = "" if data.lines else "no method has all of its cells yet"
        heading = f"{' → '.join(data.backbones)}, {count_shots(data.shots)}"
        for section, draw in parts:
            name = f"{page.name}-{section}-{number}"
            yield Drawing(name, section, page.name, heading, draw, data, missing)
