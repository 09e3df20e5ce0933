"""Names beside marks, each where it covers least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from compatbench.pages.report.canvas import INK
from compatbench.pages.svg import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

_DISTANCES = (5.0, 11.0, 19.0, 29.0, 41.0)  # points
_DIRECTIONS = 16
_NEAR = 12.0


def place_labels(
    axes: Axes, labels: Sequence[tuple[float, float, str]], marks: Sequence[tuple[float, float]]
) -> None:
    """Writes each label beside its point, off the other marks and labels where there is room.

    Labels are placed in the given order, the first with the best choice; one that had to go
    far gets a thin line to its mark.

    Args:
        labels: x, y and text.
        marks: x and y of all marks that a label should leave free.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # settles the layout, so that data have places
    frame = axes.get_window_extent(renderer)
    spots = [axes.transData.transform(mark) for mark in marks]
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in spots]
    for x, y, name in labels:
        text = axes.annotate(name, (x, y), (0, 0), textcoords="offset points", fontsize=8)
        text.set_in_layout(False)
        size = text.get_window_extent(renderer)
        across, up = axes.transData.transform((x, y))
        place = (float(across), float(up))
        box, distance = min(
            (
                (_box(place, size.width, size.height, distance, turn), distance)
                for distance in _DISTANCES
                for turn in range(_DIRECTIONS)
            ),
            key=lambda option: _badness(option[0], option[1], taken, frame),
        )
        taken.append(box)
        text.remove()
        offset = (box.x0 - place[0], box.y0 - place[1])
        line = dict(arrowstyle="-", color=GREY, linewidth=0.5, shrinkA=0, shrinkB=3)
        text = axes.annotate(
            name,
            (x, y),
            offset,
            textcoords="offset points",
            fontsize=8,
            color=INK,
            arrowprops=line if distance > _NEAR else None,
        )
        text.set_in_layout(False)


def _box(
    place: tuple[float, float], width: float, height: float, distance: float, turn: int
) -> Bbox:
    """The text's box, whose edge is ``distance`` from the mark in a direction."""
    from matplotlib.transforms import Bbox

    angle = 2 * math.pi * turn / _DIRECTIONS
    across, up = math.cos(angle), math.sin(angle)
    x = place[0] + distance * across + width * (across - 1) / 2
    y = place[1] + distance * up + height * (up - 1) / 2
    return Bbox.from_bounds(x, y, width, height)


def _badness(box: Bbox, distance: float, taken: Sequence[Bbox], frame: Bbox) -> float:
    covered = sum(_overlap(box, other) for other in taken)
    outside = box.width * box.height - _overlap(box, frame)
    return covered + 4 * outside + distance


def _overlap(a: Bbox, b: Bbox) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0.0) * max(height, 0.0)
