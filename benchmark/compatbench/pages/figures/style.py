"""What figures of the report look like, and how a figure becomes an SVG file."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from compatbench.files.hashes import sha256_bytes
from compatbench.pages.figures.compact_svg import HOVER, compact_svg
from compatbench.pages.figures.svg import BLUE, COLOURS, GREEN, ORANGE, render_svg, svg_style
from compatbench.pages.ranking import Kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, PAPER = "#1a1a1a", "#d9d9d9", "#ffffff"

# Shape and colour say the same, for readers who can tell only one of them apart.
MARKS: dict[Kind, tuple[str, str, str]] = {
    "shallow": ("o", ORANGE, "shallow"),
    "deep": ("s", BLUE, "deep"),
    "floor": ("D", INK, "zero-shot"),
    "transferred": ("^", GREEN, "through a transfer"),
}

# What report.css calls the colours of a figure; it has one of each for light and dark schemes.
COLOUR_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--line)",
    PAPER: "var(--paper)",
    **{colour: f"var(--{name})" for name, colour in COLOURS.items()},
}

_SIGNATURE = re.compile(rb"<!-- drawn from ([0-9a-f]{64}) by matplotlib (\S+) -->\n\Z")
_TITLE = re.compile(rb"<title>.*?</title>", re.DOTALL)


class Hover:
    """The titles that show when a reader points at a mark.

    ``gid=hover("CoOp: H 49.2")`` gives a mark its title.
    """

    def __init__(self) -> None:
        self.titles: list[str] = []

    def __call__(self, title: str) -> str:
        self.titles.append(title)
        return f"{HOVER}{len(self.titles) - 1}"


@contextmanager
def report_style(salt: str = "compatbench") -> Iterator[None]:
    """The style of the report's figures; ``salt`` as for ``svg_style``."""
    with svg_style("report", salt=salt), warnings.catch_warnings():
        # Text stays text in the file, so a glyph that the measuring font lacks is no loss.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; its pixels are the SVG's points, so that text can be measured."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=72, layout="constrained")


def draw_svg(draw: Callable[[Hover], Figure], facts: object, name: str, label: str) -> bytes:
    """A figure as SVG, with a digest of its data and the version of matplotlib at its end.

    Args:
        facts: all that the figure shows, with a ``repr`` that is always the same.
        name: differs from that of any other figure of a page.
        label: what the figure shows, for readers who do not see it.
    """
    hover = Hover()
    with report_style(name):
        svg = render_svg(draw(hover))
    by = f"{sha256_bytes(repr(facts).encode())} by matplotlib {version('matplotlib')}"
    return f"{compact_svg(svg, hover.titles, label)}<!-- drawn from {by} -->\n".encode()


def is_current(committed: bytes, rendered: bytes) -> bool:
    """Whether a file shows what the results give now.

    The same data give the same bytes with the same matplotlib. Another version may place
    a tick differently; then the digest of the data and the titles of the marks decide.
    """
    signatures = [_SIGNATURE.search(svg) for svg in (committed, rendered)]
    if not all(signatures):
        return False
    (digest, drawn_by), (expected, version_here) = (found.groups() for found in signatures if found)
    if drawn_by == version_here:
        return committed == rendered
    return digest == expected and _TITLE.findall(committed) == _TITLE.findall(rendered)


def shorten(title: str, longest: int = 28) -> str:
    """A title that leaves enough room for the axes beside it."""
    return title if len(title) <= longest else title[: longest - 1] + "…"


def add_legend(figure: Figure, handles: Iterable[tuple[str, str, str]], columns: int = 9) -> None:
    """One legend above the axes, of marks given by shape, colour and label."""
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], linestyle="", marker=mark, color=colour, label=label, markersize=5)
        for mark, colour, label in handles
    ]
    figure.legend(
        handles=lines, loc="outside upper left", ncols=min(len(lines), columns), handletextpad=0.2
    )


def add_kind_legend(figure: Figure, kinds: Iterable[Kind]) -> None:
    """The legend of the marks of these kinds."""
    there = set(kinds)
    add_legend(figure, [mark for kind, mark in MARKS.items() if kind in there])
