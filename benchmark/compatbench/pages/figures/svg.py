"""Figures as SVG: the same figure gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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


@contextmanager
def svg_style(*more: str, salt: str = "compatbench") -> Iterator[None]:
    """The style of figures: draw and render inside it, and the same figure gives the same bytes.

    Args:
        more: names of further style files of this folder.
        salt: makes the ids in a figure's file different from those in others.
    """
    import matplotlib.style

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        for name in ("all", *more):
            matplotlib.style.use(Path(__file__).with_name(f"{name}.mplstyle"))
        matplotlib.rcParams["svg.hashsalt"] = salt
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
