"""The figures of the analyses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compatbench.pages.figures.svg import BLUE, GREY, ORANGE, RED, SKY
from compatbench.studies.depth import KINDS, DepthReport
from compatbench.studies.embeddings import PREDICTORS, Prediction, summarize_predictions
from compatbench.studies.layers import LayersReport

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
        largest = max((v for one in report.changes if (v := getattr(one, field))), default=1.0)
        axes.set_ylim(0, 1.02 if field == "cka" else 1.08 * largest)
        _name_layers(axes, [one.layer for one in report.changes if one.tower == "text"])
    panels["cka"].legend(loc="lower left")
    figure.suptitle(f"{report.source} → {report.target}", fontsize=10)
    return figure


def draw_depth(report: DepthReport) -> Figure:
    """Accuracy on source and target, and H, against the depth of the module."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, len(KINDS), sharey=True)
    lines = {
        "source_gain": (BLUE, "o-", "source"),
        "target_gain": (RED, "s--", "target, same module"),
    }
    for axes, kind in zip(panels, KINDS, strict=True):
        points = [one for one in report.points if one.kind == kind]
        places = range(len(points))
        axes.axhline(0, color=GREY, linewidth=1)
        for field, (colour, line, label) in lines.items():
            means = [getattr(one, field) for one in points]
            axes.errorbar(
                places,
                [mean.value for mean in means],
                [mean.std or 0.0 for mean in means],
                fmt=line,
                color=colour,
                label=label,
                capsize=2,
            )
        axes.set_title(f"{kind}, {points[0].parameters:,} parameters")
        axes.set_xlabel("depth in the text tower")
        _name_layers(axes, [one.place for one in points])
    panels[0].set_ylabel("gain over zero-shot, points")
    panels[-1].legend()
    plan = report.plan
    figure.suptitle(f"{plan.source} → {plan.target}, {plan.shots} shots", fontsize=10)
    return figure


def draw_predictions(predictions: Sequence[Prediction]) -> Figure:
    """Each figure's rank correlation with the loss: of the mean over methods, and of each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=1)
    summaries = summarize_predictions(predictions)
    for row, one in enumerate(reversed(summaries)):
        each = [
            p.correlation.value
            for p in predictions
            if p.method and p.measure == one.measure and p.correlation
        ]
        axes.plot(each, [row - 0.25] * len(each), "|", color=SKY, label="each method")
        if one.mean is not None:
            spread = [[one.mean.value - one.mean.low], [one.mean.high - one.mean.value]]
            axes.errorbar(
                one.mean.value, row, xerr=spread, fmt="o", color=BLUE, capsize=3, label="mean loss"
            )
    names = [PREDICTORS[one.measure] for one in reversed(summaries)]
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(-1.05, 1.05)
    axes.set_xlabel("rank correlation with the loss, over tasks")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)
    return figure


def _name_layers(axes: Axes, layers: Sequence[str]) -> None:
    """Ticks: ``in``, the blocks by number, as many as have room, and ``out``."""
    step = 1 if len(layers) <= 9 else 2 if len(layers) <= 16 else 4
    last = len(layers) - 1
    inner = [i for i in range(1, last) if i % step == 0]
    axes.set_xticks([0, *inner, last], ["in", *[str(i) for i in inner], "out"])
