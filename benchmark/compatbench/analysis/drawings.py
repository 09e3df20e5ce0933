"""The figures of the analyses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compatbench.analysis.layers import LayersReport
from compatbench.svg import BLUE, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TOWERS = {"text": (BLUE, "o-", "text tower"), "image": (ORANGE, "s--", "image tower")}


def draw_layers(report: LayersReport) -> Figure:
    """Change of parameters and of features, absolute and relative, and CKA, by layer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), layout="constrained")
    panels = figure.subplot_mosaic([["pa", "pr", "cka"], ["fa", "fr", "cka"]])
    titles = {
        "pa": ("parameter_change", "parameters: mean |change|"),
        "pr": ("parameter_relative", "parameters: relative change"),
        "fa": ("feature_change", "features: mean |change|"),
        "fr": ("feature_relative", "features: relative change"),
        "cka": ("cka", "features: linear CKA"),
    }
    for place, (field, title) in titles.items():
        axes = panels[place]
        for tower, (colour, line, label) in _TOWERS.items():
            changes = [one for one in report.changes if one.tower == tower]
            values = [getattr(one, field) for one in changes]
            points = [(x, value) for x, value in enumerate(values) if value is not None]
            if points:
                axes.plot(*zip(*points, strict=True), line, color=colour, label=label)
        axes.set_title(title)
        axes.set_ylim(bottom=0, top=1.02 if field == "cka" else None)
        _name_layers(axes, [one.layer for one in report.changes if one.tower == "text"])
    panels["cka"].legend(loc="lower left")
    figure.suptitle(f"{report.source} → {report.target}", fontsize=10)
    return figure


def _name_layers(axes: Axes, layers: Sequence[str]) -> None:
    """Ticks: ``in``, the blocks by number, as many as have room, and ``out``."""
    step = 1 if len(layers) <= 9 else 2 if len(layers) <= 16 else 4
    last = len(layers) - 1
    inner = [i for i in range(1, last) if i % step == 0]
    axes.set_xticks([0, *inner, last], ["in", *[str(i) for i in inner], "out"])
