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
_KIND_NAMES = "{" + ", ".join(f"'{kind}': '{name}'" for kind, (*_, name) in MARKS.items()) + "}"
ROWS = {"name": "rows"}


def field(name: str, **more: Any) -> Spec:
    return {"field": name, "type": "quantitative", **more}


def calculate(**fields: str) -> list[Spec]:
    return [{"calculate": text, "as": name} for name, text in fields.items()]


def kind_of_method(channel: str) -> Spec:
    """The kind of a method as ``color`` or ``shape``."""
    shapes = [mark[0 if channel == "shape" else 1] for mark in MARKS.values()]
    shown = {
        "title": None,
        "orient": "top",
        "labelExpr": f"{_KIND_NAMES}[datum.label]",
        "values": {"expr": "kinds"},
        "symbolOpacity": 1,
    }
    scale = {"domain": list(MARKS), "range": shapes}
    return {"field": "kind", "scale": scale, "legend": shown}


def points(tip: str, **encoding: Spec) -> Spec:
    """A mark per record; ``tip`` is what a screen reader and the report say of it."""
    return {
        "transform": calculate(tip=tip),
        "mark": {"type": "point", "filled": True, "size": 45, "opacity": 1},
        "encoding": {
            "color": kind_of_method("color"),
            "shape": kind_of_method("shape"),
            "description": {"field": "tip"},
            **encoding,
        },
    }


def names(**encoding: Spec) -> Spec:
    """Names beside marks; ``render.compile_figure`` places them where they cover nothing."""
    return {
        "name": "names",
        "mark": {"type": "text", "fontSize": 10.5, "color": INK, "aria": False},
        "encoding": {"text": {"field": "name"}, **encoding},
    }
