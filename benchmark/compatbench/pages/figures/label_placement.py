"""Places names beside marks, each where it covers least.

adjustText, which moves all labels at once, draws from NumPy's global random state and left labels
on top of each other in our figures; this search is short and always gives the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compatbench.pages.figures.style import INK
from compatbench.pages.figures.svg import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DISTANCES = (5.0, 11.0, 19.0, 29.0, 41.0)  # points
_DIRECTIONS = 16
_NEAR = 12.0

Boxes = NDArray[np.float64]  # [boxes, (left, bottom, right, top)]


def place_labels(
    axes: Axes,
    labels: Sequence[tuple[float, float, str]],
    marks: Sequence[tuple[float, float]],
    line: Sequence[tuple[float, float]] = (),
) -> None:
    """Writes each label beside its point, off the other marks and labels where there is room.

    Labels are placed in the given order, the first with the best choice; one that has to go
    far gets a thin line to its mark.

    Args:
        labels: x, y and text.
        marks: x and y of all marks that labels should not cover.
        line: the corners of a line that they should not cover.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # settles the layout, so that data have places
    frame = np.array([axes.get_window_extent(renderer).extents])
    spots = axes.transData.transform(np.reshape(marks, (-1, 2)))
    corners = axes.transData.transform(np.reshape(line, (-1, 2)))
    for start, end in pairwise(corners):
        count = 2 + int(np.abs(end - start).max() // 6)
        spots = np.vstack([spots, np.linspace(start, end, count)])
    texts = [text.get_window_extent(renderer).extents for text in axes.texts]
    taken = np.vstack([np.hstack([spots - 3, spots + 3]), *texts])
    thin = dict(arrowstyle="-", color=GREY, linewidth=0.5, shrinkA=0, shrinkB=3)
    for x, y, name in labels:
        trial = axes.text(x, y, name, fontsize=8)
        trial.set_in_layout(False)
        size = np.array(trial.get_window_extent(renderer).size)
        trial.remove()
        place = axes.transData.transform((x, y))
        boxes, distances = _candidates(place, size)
        outside = size.prod() - _overlaps(boxes, frame)[:, 0]
        badness = _overlaps(boxes, taken).sum(axis=1) + 4 * outside + distances
        best = int(badness.argmin())
        taken = np.vstack([taken, boxes[best]])
        arrow = thin if distances[best] > _NEAR else None
        text = axes.annotate(
            name,
            (x, y),
            tuple(boxes[best, :2] - place),
            textcoords="offset points",
            fontsize=8,
            color=INK,
            arrowprops=arrow,
        )
        text.set_in_layout(False)


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
