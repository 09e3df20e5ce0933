"""What the figures of the report share: marks, legends, and names beside marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from numpy.typing import NDArray

from compatbench.pages.figures.svg import BLUE, GREEN, GREY, INK, ORANGE
from compatbench.results.ranks import Kind

# Shape and colour say the same, for readers who can tell only one of them apart.
MARKS: dict[Kind, tuple[str, str, str]] = {
    "shallow": ("o", ORANGE, "shallow"),
    "deep": ("s", BLUE, "deep"),
    "floor": ("D", INK, "zero-shot"),
    "transferred": ("^", GREEN, "through a transfer"),
}

_DISTANCES = (5.0, 11.0, 19.0, 29.0, 41.0)  # points
_DIRECTIONS = 16
_NEAR = 12.0

Boxes = NDArray[np.float64]  # [boxes, (left, bottom, right, top)]


def shorten(title: str, longest: int = 28) -> str:
    """A title that leaves enough room for the axes beside it."""
    return title if len(title) <= longest else title[: longest - 1] + "…"


def add_legend(figure: Figure, kinds: Iterable[Kind]) -> None:
    """One legend above the axes, of the marks of these kinds."""
    there = set(kinds)
    lines = [
        Line2D([], [], linestyle="", marker=mark, color=colour, label=label, markersize=5)
        for kind, (mark, colour, label) in MARKS.items()
        if kind in there
    ]
    figure.legend(handles=lines, loc="outside upper left", ncols=len(lines), handletextpad=0.2)


def place_labels(
    axes: Axes,
    labels: Sequence[tuple[float, float, str]],
    marks: Sequence[tuple[float, float]],
    line: Sequence[tuple[float, float]] = (),
) -> None:
    """Writes each label where it covers least, the first with the best choice.

    adjustText, which moves all labels at once, draws from NumPy's global random state and left
    labels on top of each other in our figures; this search always gives the same result. A label
    that has to go far gets a thin line to its mark; none should cover marks, or a line of corners.
    """
    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # settles the layout, so that data have places
    frame = np.array([axes.get_window_extent(renderer).extents])
    spots = axes.transData.transform(np.reshape(marks, (-1, 2)))
    for start, end in pairwise(axes.transData.transform(np.reshape(line, (-1, 2)))):
        count = 2 + int(np.abs(end - start).max() // 6)
        spots = np.vstack([spots, np.linspace(start, end, count)])
    texts = [text.get_window_extent(renderer).extents for text in axes.texts]
    taken = np.vstack([np.hstack([spots - 3, spots + 3]), *texts])
    thin = dict(arrowstyle="-", color=GREY, linewidth=0.5, shrinkA=0, shrinkB=3)
    for x, y, name in labels:
        text = axes.annotate(
            name, (x, y), (0, 0), textcoords="offset points", fontsize=8, color=INK, arrowprops=thin
        )
        text.set_in_layout(False)
        place = axes.transData.transform((x, y))
        size = np.array(Text.get_window_extent(text, renderer).size)  # without the line
        boxes, distances = _candidates(place, size)
        outside = size.prod() - _overlaps(boxes, frame)[:, 0]
        badness = _overlaps(boxes, taken).sum(axis=1) + 4 * outside + distances
        best = int(badness.argmin())
        taken = np.vstack([taken, boxes[best]])
        text.xyann = tuple(boxes[best, :2] - place)
        if text.arrow_patch is not None:
            text.arrow_patch.set_visible(bool(distances[best] > _NEAR))


def _candidates(place: Boxes, size: Boxes) -> tuple[Boxes, Boxes]:
    """Boxes of a text around a mark, the nearest first, and the distance of each."""
    angles = 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    directions = np.tile(np.stack([np.cos(angles), np.sin(angles)], axis=1), (len(_DISTANCES), 1))
    distances = np.repeat(_DISTANCES, _DIRECTIONS)
    corners = place + distances[:, None] * directions + size * (directions - 1) / 2
    return np.hstack([corners, corners + size]), distances


def _overlaps(boxes: Boxes, others: Boxes) -> Boxes:
    """The areas that boxes share, ``[boxes, others]``."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2)
