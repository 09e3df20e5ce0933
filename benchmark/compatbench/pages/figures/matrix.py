"""The upgrade matrix: the gain of the old module on the new model, methods by datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compatbench.pages.figures.style import INK, Hover, new_figure, shorten
from compatbench.pages.figures.svg import BLUE, GREY, RED
from compatbench.pages.markdown import signed
from compatbench.pages.ranking import RankingRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FULL = 15.0  # points, from which on the colour grows no stronger
_STRONGEST = 0.75  # of a colour's opacity; text on it stays readable
_SHADE = 0.025  # fewer shades, fewer styles in the file


def draw_matrix(
    rows: Sequence[RankingRow], tasks: Sequence[str], titles: Sequence[str], hover: Hover
) -> Figure:
    """Gain over the target's zero-shot by method and dataset: blue helps, red harms.

    Args:
        titles: of the tasks.
    """
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path
    from matplotlib.transforms import Affine2D

    columns = [*titles, "mean"]
    names = [shorten(row.title) for row in rows]
    room = (0.3 + 0.068 * max(map(len, names)), 0.5 + 0.045 * max(map(len, columns)))
    figure = new_figure(room[0] + 0.48 * len(columns), room[1] + 0.165 * len(rows))
    axes = figure.subplots()
    shades: dict[tuple[str, float], list[Path]] = {}
    # The mean stands apart from what it is the mean of.
    lefts = [*range(len(tasks)), len(tasks) + 0.25]
    for top, row in enumerate(rows):
        for left, task in zip(lefts, [*tasks, None], strict=True):
            gain = row.task_value("gain", task) if task else row.value("gain")
            transform = Affine2D().scale(0.97, 0.93).translate(left, top)
            if shade := _shade(gain):
                cell = Path.unit_rectangle().transformed(transform)
                shades.setdefault(shade, []).append(cell)
            axes.text(
                left + 0.5,
                top + 0.5,
                signed(gain),
                fontsize=7,
                horizontalalignment="center",
                verticalalignment="center_baseline",
                color=GREY if gain is None else INK,
            )
    # All cells of a shade as one shape: a third of the bytes.
    for (colour, strength), cells in shades.items():
        shape = PathPatch(
            Path.make_compound_path(*cells), facecolor=colour, alpha=strength, linewidth=0
        )
        axes.add_patch(shape)
        shape.set_clip_path(None)
    axes.set_xticks(
        [left + 0.5 for left in lefts], columns, rotation=35, ha="left", rotation_mode="anchor"
    )
    axes.set_yticks([row + 0.5 for row in range(len(rows))], names)
    axes.set_xlim(0, len(columns) + 0.25)
    axes.set_ylim(len(rows), 0)
    axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return figure


def _shade(gain: float | None) -> tuple[str, float] | None:
    """A cell's colour and opacity; none near 0, where the paper is its colour."""
    strength = _STRONGEST * min(abs(gain or 0.0) / _FULL, 1.0)
    steps = round(strength / _SHADE)
    return (BLUE if (gain or 0.0) > 0 else RED, round(steps * _SHADE, 3)) if steps else None
