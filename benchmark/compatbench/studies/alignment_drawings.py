"""The figures of ``docs/alignment.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from compatbench.engine.aligned_cells import is_aligned, plain_name
from compatbench.pages.figures.svg import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY
from compatbench.results.measures import Upgrade
from compatbench.studies.aligned_gains import AlignedGain
from compatbench.studies.stress import RANDOM, StressPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, "#000000")


def draw_stress(points: Sequence[StressPoint], title: str) -> Figure:
    """Accuracy on the target by how it was changed: copied modules left, aligned ones right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    changes = list(dict.fromkeys(point.change for point in points))
    colours: dict[str, str] = {}
    for name in dict.fromkeys(plain_name(point.method) for point in points):
        colours[name] = COLOURS[len(colours) % len(COLOURS)]
    for axes, aligned in zip(panels, (False, True), strict=True):
        zero_shot = [next(p.zero_shot for p in points if p.change == one) for one in changes]
        axes.plot(changes, zero_shot, "--", color=GREY, label="zero-shot")
        for name, colour in colours.items():
            own = [p for p in points if plain_name(p.method) == name]
            own = [p for p in own if is_aligned(p.method) == aligned and p.target is not None]
            if own:
                axes.errorbar(
                    [p.change for p in own],
                    [p.target.value for p in own if p.target],
                    [p.target.std or 0.0 for p in own if p.target],
                    fmt="o-",
                    color=colour,
                    capsize=2,
                    label=name,
                )
        axes.set_title("aligned by words" if aligned else "copied")
        axes.set_xlabel("largest angle of the turn, degrees" if RANDOM in changes else "change")
    panels[0].set_ylabel("accuracy on the target, %")
    panels[0].set_ylim(bottom=0)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    figure.suptitle(title, fontsize=10)
    return figure


def draw_gains(gains: Mapping[Upgrade, Sequence[AlignedGain]]) -> Figure:
    """From copied to aligned, a line for each method, and the target's zero-shot."""
    from matplotlib.figure import Figure

    shown = {pair: found for pair, found in gains.items() if found}
    most = max(len(found) for found in shown.values())
    figure = Figure(figsize=(4.5 * len(shown), 1.2 + 0.24 * most), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (pair, found) in zip(panels, shown.items(), strict=True):
        ordered = sorted(found, key=lambda one: one.aligned.value)
        for row, one in enumerate(ordered):
            values = one.copied.value, one.aligned.value
            axes.plot(values, (row, row), "-", color=GREY, linewidth=1)
            axes.plot(values[:1], (row,), "o", color=RED, label="copied")
            axes.plot(values[1:], (row,), "o", color=BLUE, label="aligned by words")
        axes.axvline(ordered[0].zero_shot, color=GREY, linestyle="--", label="zero-shot")
        axes.set_yticks(range(len(ordered)), [one.title for one in ordered])
        axes.set_xlim(left=0)
        axes.set_xlabel("accuracy on the target, %")
        axes.set_title(" → ".join(pair))
    handles, labels = panels[0].get_legend_handles_labels()
    kept = dict(zip(labels, handles, strict=True))
    figure.legend(kept.values(), kept.keys(), loc="outside upper center", ncols=3)
    return figure
