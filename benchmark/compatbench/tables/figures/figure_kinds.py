"""The kinds of figures, which the site shows in this order; extras add their own.

An extra names its kinds in a constant ``FIGURES`` of its package, a dictionary of names and the
places of ``FigureKind`` objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import altair as alt

from compatbench import plugins
from compatbench.tables.figures.charts import FigureData, matrix, scatter, shots
from compatbench.tables.figures.values import shots_figures
from compatbench.tables.suite_page import SuitePage


@dataclass(frozen=True)
class FigureKind:
    """A kind of figure.

    Attributes:
        name: in the names of files and of the site's sections, without ``-``.
        title: the heading of its section on the site.
        alt_text: what the figure shows, for readers who cannot see it.
        caption: sentences below a figure, which say what it shows.
        about: how to read it.
        draw: the function that makes the chart, from the names of its parameters.
        of_suite: the headings and data of a suite's figures, if they are not of one ranking.
    """

    name: str
    title: str
    alt_text: str
    caption: str
    about: str
    draw: Callable[[Iterable[str]], alt.LayerChart | alt.FacetChart]
    of_suite: Callable[[SuitePage], Iterable[tuple[str, FigureData]]] | None = None


SCATTER = FigureKind(
    name="scatter",
    title="Source against target",
    alt_text="Accuracy on the source against accuracy on the target, with lines of equal H",
    caption=(
        "Each mark is a method: the accuracy of its module before the upgrade (to the right) and "
        "after it (up). A method below the horizontal dotted line makes the new model worse than "
        "no module. Names: the best of each kind, and well-known methods."
    ),
    about=(
        "Each mark is one method: its accuracy before the upgrade, and that of the same module "
        "after it. Shallow modules act at the text encoder's input, deep ones anywhere else. Along "
        "a grey line H is the same. The dotted lines are zero-shot: a method below the horizontal "
        "one makes the new model worse than it is without any module. A thin line joins an "
        "untouched module with the same one through a transfer; a hollow mark is far beyond the "
        "edge."
    ),
    draw=scatter,
)
MATRIX = FigureKind(
    name="matrix",
    title="Upgrade matrix",
    alt_text="Gain over zero-shot on the target, of every method on every dataset",
    caption=(
        "Each number is what the old module adds to the zero-shot accuracy of the new model on a "
        "dataset, in points. On blue the module helps; on orange it does harm."
    ),
    about=(
        "What the old module adds to the new model, in points over its zero-shot accuracy: blue "
        "where it helps, orange where it would have been better to drop it. Methods are in the "
        "order of the leaderboard; the colour is full from 15 points on."
    ),
    draw=matrix,
)
SHOTS = FigureKind(
    name="shots",
    title="More images",
    alt_text="Accuracy on source and target against the number of training images per class",
    caption=(
        "Each panel is a method: its accuracy before and after the upgrade, by number of training "
        "images per class. Dashed lines are zero-shot."
    ),
    about=(
        "How accuracy grows with the number of training images per class, on the model that the "
        "module was trained for and on the new one."
    ),
    draw=shots,
    of_suite=shots_figures,
)


@cache
def list_kinds() -> dict[str, FigureKind]:
    """Return all kinds by name: those of the core, then those of extras."""
    kinds = [SCATTER, MATRIX, SHOTS]
    for place in plugins.offered("FIGURES").values():
        kinds.append(plugins.load(place))
    return {kind.name: kind for kind in kinds}
