"""The upgrade matrix: what the old module gives on the new model, methods by datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compatbench.pages.markdown import NOTHING, signed
from compatbench.pages.report.canvas import INK, Hover, cut, new_figure
from compatbench.pages.report.data import UpgradeFigures
from compatbench.pages.svg import BLUE, GREY, RED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FULL = 15.0  # points, from which on the colour grows no stronger
_STRONGEST = 0.75  # of a colour's opacity; print on it stays readable
_SHADE = 0.025  # fewer shades, fewer styles in the file


def draw_matrix(data: UpgradeFigures, hover: Hover) -> Figure:
    """Gain over the target's zero-shot by method and dataset: blue helps, red harms."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path
    from matplotlib.transforms import Affine2D

    rows, columns = data.methods, [*data.tasks, "mean"]
    names = [cut(one.title) for one in rows]
    room = (0.3 + 0.068 * max(map(len, names)), 0.5 + 0.045 * max(map(len, columns)))
    figure = new_figure(room[0] + 0.48 * len(columns), room[1] + 0.165 * len(rows))
    axes = figure.subplots()
    shades: dict[tuple[str, float], list[Path]] = {}
    for row, one in enumerate(rows):
        for column, gain in enumerate((*one.gains, one.gain)):
            # The mean stands apart from what it is the mean of.
            left = column + (0.25 if column == len(data.tasks) else 0)
            cell = Path.unit_rectangle().transformed(
                Affine2D().scale(0.97, 0.93).translate(left, row)
            )
            if shade := _shade(gain):
                shades.setdefault(shade, []).append(cell)
            axes.text(
                left + 0.5,
                row + 0.5,
                NOTHING if gain is None else signed(gain),
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
    edges = [i + 0.5 for i in range(len(data.tasks))] + [len(data.tasks) + 0.75]
    axes.set_xticks(edges, columns, rotation=35, ha="left", rotation_mode="anchor")
    axes.set_yticks([row + 0.5 for row in range(len(rows))], names)
    axes.set_xlim(0, len(columns) + 0.25)
    axes.set_ylim(len(rows), 0)
    axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    axes.grid(False)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def _shade(gain: float | None) -> tuple[str, float] | None:
    """A cell's colour and opacity; none near 0, where the paper is its colour."""
    strength = _STRONGEST * min(abs(gain or 0.0) / _FULL, 1.0)
    steps = round(strength / _SHADE)
    return (BLUE if (gain or 0.0) > 0 else RED, round(steps * _SHADE, 3)) if steps else None
