"""Which figures a set of results gives, their files in ``results/figures/``, and those of lines."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from compatbench.data.shots import count_shots, show_shots
from compatbench.errors import one_line
from compatbench.files.hashes import sha256_bytes
from compatbench.pages.figures.price_figures import draw_price, price_panels
from compatbench.pages.figures.ranking_figures import (
    draw_matrix,
    draw_pareto,
    draw_ranks,
    draw_scatter,
    with_cost,
)
from compatbench.pages.figures.style import MARKS, add_legend, shorten
from compatbench.pages.figures.svg import BLUE, GREY, RED, compact_svg, hover, render_svg, svg_style
from compatbench.pages.price_tables import has_prices
from compatbench.pages.suite_page import SuitePage
from compatbench.results.measures import Upgrade, follow_path
from compatbench.results.ranks import Kind, Ranked, rank_datasets, round_mean

TITLES = {
    "scatter": "Source against target",
    "matrix": "Upgrade matrix",
    "ranks": "Critical differences",
    "pareto": "What a good H costs",
    "shots": "More images",
    "decay": "Along a path of upgrades",
    "price": "Accuracy against labels",
}
_INCOMPLETE = "no method has all of its cells yet"
_COLUMNS = 6
_MOST = 50  # methods of a transfer in a figure; more could not be read
_DOTTED = (0, (1, 2))
_FOOT = -25.0  # points of gain, below which a line leaves the figure
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
        figures += [*_of_shots(page), *_of_paths(page), *_of_price(page)]
    return figures


def _of_upgrade(
    page: SuitePage, upgrade: Upgrade, shots: int, number: int
) -> Iterator[PlannedFigure]:
    tasks, transfers = page.expected.tasks, page.results.transfers
    rows = [one for name in transfers for one in _best(page.ranks(upgrade, shots, name))]
    complete = [row for row in rows if row.value("h") is not None]
    plain = [row for row in complete if not row.transfer]
    missing = "" if plain else _INCOMPLETE
    too_few, ranked = "", ()
    if tested := rank_datasets(page.ranks(upgrade, shots)):
        methods, test = tested
        ranks = dict(zip(methods, (round(rank, 4) for rank in test.ranks), strict=True))
        best = _best(methods)
        difference = round(test.critical_difference, 4)
        ranked = (best, [ranks[one] for one in best], difference, test.datasets)
    else:
        too_few = (
            "the test needs three methods with all of their cells, and two datasets; there are "
            f"{len(plain)} and {len(tasks)}"
        )
    titles = [one_line(page.task_title(task), 24) for task in tasks]
    costs = (with_cost(plain, "parameters"), with_cost(plain, "fit_seconds"))
    heading = one_line(f"{page.path_title(upgrade)}, {count_shots(shots)}")
    if len(every := page.all_ranks(upgrade, shots)) > len(rows):
        heading += f", the {_MOST} best by each transfer and zero-shot, out of {len(every)}"
    planned = (
        ("scatter", draw_scatter, (complete, zero_shot_accuracies(rows)), missing),
        ("matrix", draw_matrix, (rows, tasks, titles), ""),
        ("ranks", draw_ranks, ranked, too_few),
        ("pareto", draw_pareto, costs, missing),
    )
    for section, draw, shown, why_not in planned:
        yield PlannedFigure(page.name, section, number, heading, draw, shown, why_not)


def _best(rows: Sequence[Ranked]) -> list[Ranked]:
    """The first methods of a ranking, and zero-shot."""
    return [one for place, one in enumerate(rows) if place < _MOST or one.kind == "floor"]


def _of_shots(page: SuitePage) -> Iterator[PlannedFigure]:
    counts = sorted(page.expected.shots)
    for number, upgrade in enumerate(page.expected.upgrades if len(counts) > 1 else (), 1):
        curves = shots_curves(page, upgrade)
        rows = [row for count in counts for row in page.all_ranks(upgrade, count)]
        shown = (curves[:_MOST], counts, zero_shot_accuracies(rows))
        heading, missing = one_line(page.path_title(upgrade)), "" if curves else _INCOMPLETE
        if len(curves) > _MOST:
            heading += f", the {_MOST} best of {len(curves)} methods"
        yield PlannedFigure(page.name, "shots", number, heading, draw_shots, shown, missing)


def _of_paths(page: SuitePage) -> Iterator[PlannedFigure]:
    for number, path in enumerate(page.paths, 1):
        lines = path_lines(page, path)
        backbones = [one_line(page.backbone_title(name), 60) for name in path]
        heading = f"{' → '.join(backbones)}, {count_shots(max(page.expected.shots))}"
        shown, missing = (lines, backbones), "" if lines else _INCOMPLETE
        yield PlannedFigure(page.name, "decay", number, heading, draw_decay, shown, missing)


def _of_price(page: SuitePage) -> Iterator[PlannedFigure]:
    for number, upgrade in enumerate(page.expected.upgrades if has_prices(page) else (), 1):
        panels, labels = price_panels(page, upgrade)
        heading, missing = one_line(page.path_title(upgrade)), "" if panels else _INCOMPLETE
        shown = (panels, labels)
        yield PlannedFigure(page.name, "price", number, heading, draw_price, shown, missing)


def zero_shot_accuracies(rows: Sequence[Ranked]) -> tuple[float, float] | None:
    """Of source and target. They do not depend on the method: those of the first with all cells."""
    for row in rows:
        source, source_gain = row.value("source"), row.value("source_gain")
        target, gain = row.value("target"), row.value("gain")
        if None not in (source, source_gain, target, gain):
            return round(source - source_gain, 4), round(target - gain, 4)  # type: ignore[operator]
    return None


class Curve(NamedTuple):
    """A method along shots; None where a cell is missing."""

    title: str
    source: tuple[float | None, ...]
    target: tuple[float | None, ...]
    h: tuple[float | None, ...]


class PathLine(NamedTuple):
    """A method's gain over zero-shot at every backbone of a path, the source first."""

    title: str
    kind: Kind
    gains: tuple[float, ...]


def shots_curves(page: SuitePage, upgrade: Upgrade) -> list[Curve]:
    """The methods with an H by number of shots, the best at the most shots first."""
    along: dict[str, list[list[float | None]]] = {}
    for count in sorted(page.expected.shots):
        for row in page.all_ranks(upgrade, count):
            values = [row.value(measure) for measure in ("source", "target", "h")]
            along.setdefault(row.title, []).append(values)
    found = [Curve(title, *zip(*values, strict=True)) for title, values in along.items()]
    curves = [one for one in found if any(value is not None for value in one.h)]
    return sorted(curves, key=lambda one: (one.h[-1] is None, -(one.h[-1] or 0), one.title))


def draw_shots(
    curves: Sequence[Curve], shots: Sequence[int], zero_shot: tuple[float, float] | None
) -> Figure:
    """Source and target accuracy by shots, one small panel per method, beside zero-shot of both."""
    columns = min(_COLUMNS, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure((max(1.3 * columns, 3.2), 0.8 + 1.2 * rows))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, curve in zip(panels.flat, curves, strict=False):
        last = "" if curve.h[-1] is None else f": H {curve.h[-1]:.1f} at the most shots"
        sides = (
            (curve.source, "o-", BLUE, "source"),
            (curve.target, "s-", RED, "target, same module"),
        )
        for i, (values, line, colour, label) in enumerate(sides):
            if zero_shot is not None:
                axes.axhline(zero_shot[i], color=colour, linewidth=0.8, linestyle=_DOTTED)
            shown, gid = np.array(values, dtype=float), hover(curve.title + last)
            axes.plot(shown, line, color=colour, label=label, gid=gid, ms=2.6, lw=1.2)
        axes.set_title(shorten(curve.title, 20), fontsize=8.5)
        axes.grid(False, axis="x")
        axes.tick_params(left=False, bottom=False)
    for axes in panels.flat[len(curves) :]:
        axes.set_visible(False)
    panels[0][0].set_xticks(range(len(shots)), [str(show_shots(count)) for count in shots])
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy, %", fontsize=8)
    # A column that ends early shows its ticks under its last panel.
    for axes in panels.flat[max(len(curves) - columns, 0) : len(curves)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("shots", fontsize=8)
    handles, names = panels[0][0].get_legend_handles_labels()
    if zero_shot is not None:
        handles.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle=_DOTTED))
        names.append("zero-shot of each")
    figure.legend(handles, names, loc="outside upper left", ncols=3)
    return figure


def path_lines(page: SuitePage, path: Sequence[str]) -> list[PathLine]:
    """The methods with all cells of a path, at the most shots; the highest last gain first."""
    shots = max(page.expected.shots)
    lines = []
    for row in page.all_ranks((path[0], path[-1]), shots):
        means = follow_path(row.standing.results, page.expected, path, shots)["gain"]
        gains = [gain for mean in means if (gain := round_mean(mean)) is not None]
        if len(gains) == len(path):
            lines.append(PathLine(row.title, row.kind, tuple(gains)))
    return sorted(lines, key=lambda one: (-one.gains[-1], one.title))


def draw_decay(lines: Sequence[PathLine], backbones: Sequence[str]) -> Figure:
    """Gain over zero-shot, backbone by backbone: every method thin, the median of a kind thick."""
    figure = Figure((5.0, 3.8))
    axes = figure.subplots()
    # Zero-shot is the line at 0.
    modules = [one for one in lines if one.kind != "floor"]
    for kind, (mark, colour, _) in MARKS.items():
        of_kind = [one for one in modules if one.kind == kind]
        for one in of_kind:
            text = f"{one.title}: " + ", ".join(f"{gain:+.1f}" for gain in one.gains)
            axes.plot(one.gains, color=colour, linewidth=0.7, alpha=0.35, gid=hover(text))
        if of_kind:
            middle = np.median([one.gains for one in of_kind], axis=0)
            axes.plot(middle, f"{mark}-", color=colour, linewidth=2.2, markersize=6, zorder=3)
    axes.axhline(0, color=GREY, linewidth=0.8)
    low = [one.title for one in lines if min(one.gains) < _FOOT]
    if low:
        axes.set_ylim(bottom=_FOOT)
        note = f"leaves the figure: {', '.join(low)}"
        axes.text(0.99, 0.015, note, transform=axes.transAxes, color=GREY, fontsize=7.5, ha="right")
    # A title on two lines, broken before what stands in brackets.
    titles = [title.replace(" (", "\n(", 1) for title in backbones]
    axes.set_xticks(range(len(backbones)), titles)
    axes.set_xlim(-0.15, len(backbones) - 0.7)
    high = [one for one in modules if one.title not in low]
    for one in dict.fromkeys([*high[:1], *high[-1:]]):
        end = (len(backbones) - 1, one.gains[-1])
        axes.annotate(one.title, end, (7, 0), textcoords="offset points", fontsize=8, va="center")
    axes.set_ylabel("gain over zero-shot, points")
    add_legend(figure, [one.kind for one in modules])
    return figure
