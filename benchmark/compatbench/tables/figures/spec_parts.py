"""What the specifications of figures share: marks, names, lines; and what a figure is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from compatbench.tables.figures.colours import BLUE, GREEN, INK, ORANGE

if TYPE_CHECKING:
    from compatbench.results.ranks import Kind

Spec = dict[str, Any]


class Shown(NamedTuple):
    """The data of a figure: records, and signals of its specification."""

    values: list[dict[str, Any]]
    signals: dict[str, Any]


# Kind -> Vega's shape, colour and name. Shape and colour say the same, for readers who can tell
# only one of them apart.
MARKS: dict[Kind, tuple[str, str, str]] = {
    "shallow": ("circle", ORANGE, "shallow"),
    "deep": ("square", BLUE, "deep"),
    "floor": ("diamond", INK, "zero-shot"),
    "transferred": ("triangle-up", GREEN, "through a transfer"),
}
WIDTH = 480  # pixels of a figure in a file; in the report it is as wide as its place
PANEL, COLUMNS = 105, 4  # pixels of a small panel, and how many stand side by side in a file
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"  # the first is what vl-convert measures
