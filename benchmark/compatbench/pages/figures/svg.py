"""Figures as SVG: the same figure gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compatbench.files.atomic import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = {
    "blue": "#0072b2",
    "orange": "#e69f00",
    "green": "#009e73",
    "red": "#d55e00",
    "purple": "#cc79a7",
    "sky": "#56b4e9",
    "grey": "#777777",
}
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = COLOURS.values()

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "compatbench",
    "svg.fonttype": "none",  # words stay words: small files that can be searched and read aloud
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.markersize": 4,
}


@contextmanager
def svg_style() -> Iterator[None]:
    """What figures look like, and all that their bytes depend on; draw and render inside it."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def render_svg(figure: Figure) -> bytes:
    """The figure as SVG, without date, and without the version that drew it."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    lines = out.getvalue().decode().splitlines()
    return ("\n".join(line.rstrip() for line in lines) + "\n").encode()


def save_svg(figure: Figure, path: Path) -> None:
    """Writes a figure.

    Raises:
        CompatbenchError: the folder cannot be written.
    """
    write_atomic(path, render_svg(figure))
