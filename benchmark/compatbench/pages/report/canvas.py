"""How figures of the report look, and how one becomes bytes: titles to hover over, a digest."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from compatbench.files.hashes import sha256_bytes
from compatbench.pages.report.data import Kind
from compatbench.pages.report.tidy import HOVER, tidy_svg
from compatbench.pages.svg import BLUE, GREEN, ORANGE, render_svg, svg_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, PAPER = "#1a1a1a", "#d9d9d9", "#ffffff"

# Shape and colour say the same, for those who see one of them alone.
MARKS: dict[Kind, tuple[str, str, str]] = {
    "shallow": ("o", ORANGE, "shallow"),
    "deep": ("s", BLUE, "deep"),
    "floor": ("D", INK, "zero-shot"),
    "aligned": ("^", GREEN, "re-attached through a map"),
}

_STYLE: dict[Any, Any] = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.facecolor": "none",
    "figure.facecolor": PAPER,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": FAINT,
    "grid.alpha": 1.0,
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "font.size": 8.5,
    "axes.titlesize": 9,
    # A title with a dollar sign is a title, not a formula.
    "text.parse_math": False,
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
def report_style() -> Iterator[None]:
    """The style of the report's figures, on top of that of all."""
    import matplotlib

    with svg_style(), warnings.catch_warnings():
        # Words stay words in the file, so that a sign the measuring font lacks is no loss.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; its pixels are the SVG's points, so that text can be measured."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=72, layout="constrained")


def draw_svg(draw: Callable[[Any, Hover], Figure], data: object, label: str) -> bytes:
    """The figure that a function draws from data, as SVG, with a digest of the data and the
    version of matplotlib at its end.

    Args:
        label: what the figure shows, for readers who do not see it.
    """
    hover = Hover()
    with report_style():
        svg = render_svg(draw(data, hover))
    by = f"{sha256_bytes(repr(data).encode())} by matplotlib {version('matplotlib')}"
    return f"{tidy_svg(svg, hover.titles, label)}<!-- drawn from {by} -->\n".encode()


def is_current(committed: bytes, rendered: bytes) -> bool:
    """Whether a file shows what the results give now.

    The same data give the same bytes with the same matplotlib. Another version may place
    a tick elsewhere; then the digest of the data and the figures written in the file decide.
    """
    signatures = [_SIGNATURE.search(svg) for svg in (committed, rendered)]
    if not all(signatures):
        return False
    (digest, drawn_by), (expected, version_here) = (found.groups() for found in signatures if found)
    if drawn_by == version_here:
        return committed == rendered
    return digest == expected and _TITLE.findall(committed) == _TITLE.findall(rendered)


def cut(title: str, longest: int = 28) -> str:
    """A title that leaves an axis room enough beside it."""
    return title if len(title) <= longest else title[: longest - 1] + "…"


def in_points(value: float) -> str:
    return f"{value:.1f}"


def legend_kinds(figure: Figure, kinds: Sequence[Kind], **options: Any) -> None:
    """One legend for the marks of the kinds that are there, above the axes."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=mark, color=colour, label=label, markersize=5)
        for kind, (mark, colour, label) in MARKS.items()
        if kind in kinds
    ]
    figure.legend(
        handles=handles, loc="outside upper left", ncols=len(handles), handletextpad=0.2, **options
    )
