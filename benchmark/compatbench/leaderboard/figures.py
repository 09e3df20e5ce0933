"""The pictures that ``leaderboard.md`` shows, where they have been drawn."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

FIGURES = "figures"  # below results/

# What a picture shows, for those who cannot see it; the file is called <suite>-<kind>.svg.
SHOWS = {
    "scatter": "Accuracy on the source against accuracy on the target, with lines of equal H",
    "matrix": "H of every method on every dataset",
    "ranks": "Average ranks, with bars over methods that cannot be told apart",
    "paths": "Gain over zero-shot at every step of an upgrade path",
    "shots": "Accuracy against the number of training images per class",
}


def drawn_figures(results: Path) -> frozenset[str]:
    """The names of the pictures beside the results."""
    return frozenset(path.stem for path in (results / FIGURES).glob("*.svg"))


def embed(figures: Collection[str], suite: str, *kinds: str) -> list[str]:
    """Markdown lines that show a suite's pictures of some kinds, if they are among ``figures``."""
    lines = []
    for kind in kinds:
        if (name := f"{suite}-{kind}") in figures:
            lines += ["", f"![{SHOWS[kind]}](results/{FIGURES}/{name}.svg)"]
    return lines
