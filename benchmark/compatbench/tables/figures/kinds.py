"""The kinds of figures, which a site shows in this order; extras add their own.

An extra names its kinds in a constant ``FIGURES`` of its package, a dictionary of names and the
places of ``FigureKind`` objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from compatbench import plugins
from compatbench.tables.figures import curve_specs, specs
from compatbench.tables.figures.spec_parts import Shown, Spec
from compatbench.tables.figures.values import path_figures, shots_figures
from compatbench.tables.suite_page import SuitePage


@dataclass(frozen=True)
class FigureKind:
    """A kind of figure.

    Attributes:
        name: in the names of files, and of the site's sections; without ``-``.
        alt: what is to be seen, for who does not see it.
        about: what the site says of it.
        spec: its Vega-Lite specification, for records called ``rows`` and signals.
        of_suite: headings and data of those of one suite, where they are not of one ranking.
        first_side: where a name is best placed beside its mark.
    """

    name: str
    title: str
    alt: str
    about: str
    spec: Callable[[], Spec]
    of_suite: Callable[[SuitePage], Iterable[tuple[str, Shown]]] | None = None
    first_side: str = "top-right"


_CORE = (
    FigureKind(
        name="scatter",
        title="Source against target",
        alt="Accuracy on the source against accuracy on the target, with lines of equal H",
        about="Each mark is one method: its accuracy before the upgrade, and that of "
        "the same module after it. Shallow modules act at the text encoder's "
        "input, deep ones anywhere else. Along a grey line H is the same. The "
        "dotted lines are zero-shot: a method below the horizontal one makes the "
        "new model worse than it is without any module. A thin line joins an "
        "untouched module with the same one through a transfer; a hollow mark is "
        "far beyond the edge.",
        spec=specs.scatter,
    ),
    FigureKind(
        name="matrix",
        title="Upgrade matrix",
        alt="Gain over zero-shot on the target, of every method on every dataset",
        about="What the old module adds to the new model, in points over its zero-shot "
        "accuracy: blue where it helps, red where it would have been better to "
        "drop it. Methods in the order of the leaderboard; the colour is full "
        "from 15 points on.",
        spec=specs.matrix,
    ),
    FigureKind(
        name="ranks",
        title="Critical differences",
        alt="Average ranks, with bars over methods that cannot be told apart",
        about="Methods are ranked by H on every dataset; here are their average ranks "
        "among all methods. Where the bars of two methods do not overlap, "
        "Nemenyi's test tells them apart (5 %); with few datasets it tells few "
        "apart.",
        spec=specs.ranks,
    ),
    FigureKind(
        name="size",
        title="What a good H costs: parameters",
        alt="H against the parameters of the module",
        about="H against the size of the module. The line joins the methods such that "
        "no other is both smaller and better.",
        spec=specs.size,
        first_side="top-left",  # the front leaves a point to the right, and comes from below
    ),
    FigureKind(
        name="time",
        title="What a good H costs: seconds",
        alt="H against the seconds of one fit",
        about="H against the time of a fit on one core. The line joins the methods such"
        " that no other is both quicker and better.",
        spec=specs.time,
        first_side="top-left",  # the front leaves a point to the right, and comes from below
    ),
    FigureKind(
        name="shots",
        title="More images",
        alt="Accuracy on source and target against the number of training images per class",
        about="How accuracy grows with the number of training images per class, on the "
        "model that the module was trained for and on the new one.",
        spec=curve_specs.shots,
        of_suite=shots_figures,
    ),
    FigureKind(
        name="decay",
        title="Along a path of upgrades",
        alt="Gain over zero-shot at every model of an upgrade path",
        about="One module, never trained again, along several upgrades: how much it "
        "still adds to each model's zero-shot accuracy. Every method is a thin "
        "line, the median of a kind a thick one.",
        spec=curve_specs.decay,
        of_suite=path_figures,
    ),
)


@cache
def list_kinds() -> tuple[FigureKind, ...]:
    """All kinds: those of the core, then those of extras."""
    return (*_CORE, *map(plugins.load, plugins.offered("FIGURES").values()))


def find_kind(name: str) -> FigureKind:
    return next(kind for kind in list_kinds() if kind.name == name)
