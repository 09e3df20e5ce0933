"""The Vega-Lite specifications of figures that follow methods: along shots, labels and paths."""

from __future__ import annotations

from collections.abc import Sequence

from compatbench.tables.figures.colours import BLUE, GREY, RED
from compatbench.tables.figures.spec_parts import (
    COLUMNS,
    PANEL,
    ROWS,
    Spec,
    calculate,
    expression,
    field,
    kind_of_method,
)


def panels(x_title: str, y_title: str, lines: Sequence[tuple[str, bool]], columns: int) -> Spec:
    """One small panel per method, in the order of the records.

    Args:
        lines: colours of the signal ``order``, and whether a line is solid and has marks.
    """
    header = {"title": None, "labelLimit": PANEL + 20, "labelFontWeight": "bold", "labelPadding": 4}
    label = "names[indexof(ticks, datum.value)]"
    axis = {"values": expression("ticks"), "labelExpr": label, "grid": False}
    x = field("at", title=x_title, axis=axis)
    y = field("accuracy", title=y_title, scale={"zero": False})
    legend = {"title": None, "orient": "top", "columns": columns, "symbolType": "stroke"}
    ranges = [colour for colour, _ in lines], [[1, 0] if solid else [3, 2] for _, solid in lines]
    colour, dash = (
        {
            "field": "line",
            "type": "nominal",
            "scale": {"domain": expression("order"), "range": values},
            "legend": legend,
        }
        for values in ranges
    )
    marked = f"indexof(order, datum.line) < {sum(solid for _, solid in lines)}"
    tip = "datum.title + ', ' + datum.line + ': ' + format(datum.accuracy, '.1f')"
    return {
        "data": ROWS,
        "transform": [
            {"window": [{"op": "row_number", "as": "place"}]},
            {"flatten": ["line", "at", "accuracy"]},
            {"flatten": ["at", "accuracy"]},
            {"filter": "isValid(datum.accuracy)"},
            *calculate(tip=tip),
        ],
        "facet": {
            "field": "title",
            "type": "nominal",
            "sort": {"field": "place", "op": "min"},
            "header": header,
        },
        "columns": COLUMNS,
        "spacing": {"row": 14, "column": 16},
        "spec": {
            "width": PANEL,
            "height": 95,
            "encoding": {"x": x, "y": y, "color": colour, "description": {"field": "tip"}},
            "layer": [
                {"mark": {"type": "line", "strokeWidth": 1.4}, "encoding": {"strokeDash": dash}},
                {
                    "transform": [{"filter": marked}],
                    "mark": {"type": "point", "size": 14, "filled": True, "opacity": 1},
                },
            ],
        },
    }


def shots() -> Spec:
    """Accuracy on source and target by shots, beside zero-shot of both."""
    lines = [(BLUE, True), (RED, True), (BLUE, False), (RED, False)]
    return panels("shots", "accuracy, %", lines, columns=2)


def decay() -> Spec:
    """Gain over zero-shot, model by model: every method thin, the median of a kind thick."""
    # A title on two lines, broken before what stands in brackets.
    label = "split(replace(datum.label, ')', ''), ' (')"
    axis = {"labelAngle": 0, "labelExpr": label, "labelLimit": 150}
    x = {"field": "models", "type": "ordinal", "sort": None, "title": None, "axis": axis}
    y = field("gain", title="gain over zero-shot, points")
    tip = "datum.title + ', ' + datum.models + ': ' + format(datum.gain, '+.1f')"
    colour = kind_of_method("color")
    thin = {"type": "line", "strokeWidth": 0.8, "opacity": 0.35, "aria": False}
    return {
        "height": 340,
        "data": ROWS,
        "transform": [
            {"flatten": ["gains", "models"], "as": ["gain", "models"]},
            *calculate(tip=tip),
            *calculate(gain="max(datum.gain, foot)"),
        ],
        "layer": [
            {
                "mark": {"type": "rule", "color": GREY, "aria": False},
                "encoding": {"y": {"datum": 0}},
            },
            {
                "mark": thin,
                "encoding": {"x": x, "y": y, "detail": {"field": "title"}, "color": colour},
            },
            {
                "mark": {"type": "point", "size": 12, "filled": True, "opacity": 0.6},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": colour,
                    "shape": kind_of_method("shape"),
                    "description": {"field": "tip"},
                },
            },
            {
                "mark": {"type": "line", "strokeWidth": 3, "aria": False},
                "encoding": {"x": x, "y": {**y, "aggregate": "median"}, "color": colour},
            },
        ],
    }
