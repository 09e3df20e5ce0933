"""The pictures that ``leaderboard.md`` shows, where they have been drawn."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

FIGURES = "figures"  # below results/

# What a picture shows, for those who cannot see it. The file of the first upgrade or path of a
# suite is called <suite>-<kind>-1.svg.
SHOWS = {
    "scatter": "Accuracy on the source against accuracy on the target, with lines of equal H",
    "matrix": "Gain over zero-shot on the target, of every method on every dataset",
    "ranks": "Average ranks, with bars over methods that cannot be told apart",
    "decay": "Gain over zero-shot at every model of an upgrade path",
    "shots": "Accuracy on source and target against the number of training images per class",
}


def drawn_figures(results: Path) -> frozenset[str]:
    """The names of the pictures beside the results."""
    return frozenset(path.stem for path in (results / FIGURES).glob("*.svg"))


def embed(figures: Collection[str], suite: str, number: int, *kinds: str) -> list[str]:
    """Markdown lines that show pictures of some kinds, if they are among ``figures``.

    Args:
        number: of the upgrade or the path in its suite, from 1.
    """
    lines = []
    for kind in kinds:
        if (name := f"{suite}-{kind}-{number}") in figures:
            lines += ["", f"![{SHOWS[kind]}](results/{FIGURES}/{name}.svg)"]
    return lines
