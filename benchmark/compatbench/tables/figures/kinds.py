"""The kinds of figures, which a site shows in this order; extras add their own.

An extra names its kinds in a constant ``FIGURES`` of its package, a dictionary of names and the
places of ``FigureKind`` objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import yaml

from compatbench import plugins
from compatbench.tables.figures.colours import COLOURS, FAINT, INK
from compatbench.tables.figures.spec_parts import COLUMNS, MARKS, PANEL, Shown, Spec
from compatbench.tables.figures.values import path_figures, shots_figures
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.templates import template


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


def read_kinds(name: str, **of_suite: Callable[[SuitePage], Any]) -> list[FigureKind]:
    """The kinds of a template, a YAML document each, with ``of_suite`` by their names."""
    marks = {
        "marks": MARKS,
        "kind_names": {kind: label for kind, (*_, label) in MARKS.items()},
        "panel": PANEL,
        "panel_columns": COLUMNS,
    }
    colours = {**COLOURS, "ink": INK, "faint": FAINT}
    text = template(name, autoescape=False).render(**marks, **colours)
    kinds = []
    for entry in yaml.safe_load_all(text):
        entry.pop("parts", None)  # anchors of others
        spec = partial(deepcopy, entry.pop("spec"))
        kinds.append(FigureKind(**entry, spec=spec, of_suite=of_suite.get(entry["name"])))
    return kinds


@cache
def list_kinds() -> tuple[FigureKind, ...]:
    """All kinds: those of the core, then those of extras."""
    core = read_kinds("kinds.yaml.jinja", shots=shots_figures, decay=path_figures)
    return (*core, *map(plugins.load, plugins.offered("FIGURES").values()))


def find_kind(name: str) -> FigureKind:
    return next(kind for kind in list_kinds() if kind.name == name)
