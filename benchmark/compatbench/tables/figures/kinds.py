"""The kinds of figures, which a site shows in this order; extras add their own.

A kind is a document of a YAML template: a Vega-Lite specification for records called ``rows`` and
for signals. An extra names its kinds that are of suites in a constant ``FIGURES`` of its package, a
dictionary of names and the places of ``FigureKind`` objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
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
        name: in the names of files, and of the site's sections; without ``-`` if it is of suites.
        alt: what is to be seen, for who does not see it.
        spec: its Vega-Lite specification, for records called ``rows`` and signals.
        title, about: what the site says of it.
        of_suite: headings and data of those of one suite, where they are not of one ranking.
        first_side: where a name is best placed beside its mark.
    """

    name: str
    alt: str
    spec: Callable[[], Spec]
    title: str = ""
    about: str = ""
    of_suite: Callable[[SuitePage], Iterable[tuple[str, Shown]]] | None = None
    first_side: str = "top-right"


def read_kinds(place: str | Path, **of_suite: Callable[[SuitePage], Any]) -> dict[str, FigureKind]:
    """The kinds of a template by name, a YAML document each; ``of_suite`` is by their names.

    Args:
        place: a file's name in this folder, or its path.
    """
    marks = {
        "marks": MARKS,
        "kind_names": {kind: label for kind, (*_, label) in MARKS.items()},
        "panel": PANEL,
        "panel_columns": COLUMNS,
    }
    colours = {**COLOURS, "ink": INK, "faint": FAINT}
    text = template(str(place), autoescape=False).render(**marks, **colours)
    kinds = {}
    for entry in yaml.safe_load_all(text):
        entry.pop("parts", None)  # anchors of others
        name, spec = entry["name"], partial(deepcopy, entry.pop("spec"))
        kinds[name] = FigureKind(**entry, spec=spec, of_suite=of_suite.get(name))
    return kinds


@cache
def list_kinds() -> dict[str, FigureKind]:
    """All kinds that are of suites, by name: those of the core, then those of extras."""
    core = read_kinds("kinds.yaml.jinja", shots=shots_figures, decay=path_figures)
    offered = map(plugins.load, plugins.offered("FIGURES").values())
    return core | {kind.name: kind for kind in offered}
