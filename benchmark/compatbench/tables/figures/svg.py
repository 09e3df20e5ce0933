"""Figures of matplotlib as SVG, the same bytes for the same figure."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compatbench.files.atomic import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def svg_style() -> Iterator[None]:
    """The style of figures: draw and render inside it, and the same figure gives the same bytes."""
    import matplotlib.style

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.style.use(Path(__file__).with_name("all.mplstyle"))
        yield


def render_svg(figure: Figure) -> bytes:
    """The figure as SVG, without date, and without the version that drew it."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    lines = out.getvalue().decode().splitlines()
    return ("\n".join(line.rstrip() for line in lines) + "\n").encode()


def save_svg(figure: Figure, path: Path) -> None:
    """Writes a figure."""
    write_atomic(path, render_svg(figure))
