"""The Vega-Lite specification of every kind of figure.

Records come as the data set ``rows`` and settings as signals, so that one specification serves a
file (``render.py``) and the report, which filters the records.
"""

from __future__ import annotations

from functools import partial

from compatbench.tables.figures.colours import BLUE, FAINT, GREY, INK, RED
from compatbench.tables.figures.spec_parts import (
    ALL_NAMED,
    ROWS,
    Spec,
    calculate,
    expression,
    field,
    kind_of_method,
    names,
    points,
    zero_shot_line,
)


def scatter() -> Spec:
    """Accuracy before the upgrade against accuracy after it, with lines of equal H."""
    ends = {f"{axis}{end}": expression(f"{axis}{end}") for axis in "xy" for end in "01"}
    x_scale, y_scale = (
        {"domain": [ends[f"{axis}0"], ends[f"{axis}1"]], "nice": False} for axis in "xy"
    )
    x = field("x", scale=x_scale, title="source accuracy, %", axis={"grid": False})
    y_title = "target accuracy with the same module, %"
    y = field("y", scale=y_scale, title=y_title, axis={"grid": False})
    inside = "datum.source >= x0 && datum.target >= y0 && datum.source <= x1 && datum.target <= y1"
    place = calculate(x="clamp(datum.source, x0, x1)", y="clamp(datum.target, y0, y1)")
    lines: Spec = {
        "data": {"sequence": {"start": 0, "stop": 101, "as": "i"}},
        "transform": [
            *calculate(x="x0 + (x1 - x0) * datum.i / 100", h="sequence(step, 100, step)"),
            {"flatten": ["h"]},
            *calculate(y="datum.h * datum.x / max(2 * datum.x - datum.h, 0.001)"),
            {"filter": "datum.y >= y0 && datum.y <= y1"},
        ],
        "mark": {"type": "line", "color": FAINT, "strokeWidth": 1, "aria": False},
        "encoding": {"x": x, "y": y, "detail": {"field": "h"}},
    }
    ends_of_lines: Spec = {
        "data": {"sequence": {"start": 1, "stop": 100, "as": "i"}},
        "transform": [
            {"filter": "datum.i % step == 0 && 2 * y1 > datum.i"},
            *calculate(x="datum.i * y1 / (2 * y1 - datum.i)", y="y1", name="'H ' + datum.i"),
            {"filter": "datum.x >= x0 && datum.x <= x1"},
        ],
        "mark": {"type": "text", "color": GREY, "dy": -7, "fontSize": 10, "aria": False},
        "encoding": {"x": x, "y": y, "text": {"field": "name"}},
    }
    links: Spec = {
        "data": ROWS,
        "transform": [
            {"filter": "isValid(datum.before)"},
            *place,
            *calculate(bx="clamp(datum.before[0], x0, x1)", by="clamp(datum.before[1], y0, y1)"),
        ],
        "mark": {"type": "rule", "color": GREY, "strokeWidth": 0.5, "aria": False},
        "encoding": {"x": x, "y": y, "x2": {"field": "bx"}, "y2": {"field": "by"}},
    }
    tip = (
        "datum.title + ': source ' + format(datum.source, '.1f') + ', target ' + "
        "format(datum.target, '.1f') + ', H ' + format(datum.h, '.1f')"
    )
    hollow = {"condition": {"test": inside, "value": 1}, "value": 0}
    stroke = {**kind_of_method("color"), "legend": None}
    marks = points(tip, x=x, y=y, fillOpacity=hollow, stroke=stroke)
    marks["transform"] += place
    name = f"datum.named || length(data('rows')) <= {ALL_NAMED} ? datum.title : ''"
    named: Spec = {
        **names(x=x, y=y),
        "transform": [{"filter": inside}, *place, *calculate(name=name)],
    }
    return {
        "height": 400,
        "layer": [
            lines,
            ends_of_lines,
            zero_shot_line("zero_source", "x"),
            zero_shot_line("zero_target", "y"),
            links,
            {"data": ROWS, **marks},
            {"data": ROWS, **named},
        ],
    }


def matrix() -> Spec:
    """Gain over the target's zero-shot by method and dataset: blue helps, red harms."""
    narrow = "bandwidth('x') < 30"
    # A gain that rounds to zero has no sign.
    zero = f"abs(datum.gain) < ({narrow} ? 0.5 : 0.05) ? ({narrow} ? '0' : '0.0')"
    signed = f"format(datum.gain, {narrow} ? '+.0f' : '+.1f')"
    text = f"datum.gain === null ? '–' : {zero} : {signed}"
    axis = {"title": None, "domain": False, "ticks": False, "labelOverlap": False}
    up = {**axis, "orient": "top", "labelAngle": -45, "labelLimit": 110}
    side = {**axis, "labelLimit": expression("narrow ? 96 : 200")}
    # The colour is full from 15 points on, and never so dark that text on it is lost.
    shade = expression("0.7 * min(abs(datum.gain) / 15, 1)")
    return {
        "height": {"step": 16},
        "data": ROWS,
        "transform": [*calculate(set="sets"), {"flatten": ["gains", "set"], "as": ["gain", "set"]}],
        "encoding": {
            "x": {"field": "set", "type": "nominal", "sort": None, "axis": up},
            "y": {"field": "title", "type": "nominal", "sort": None, "axis": side},
        },
        "layer": [
            {
                "mark": {"type": "rect", "aria": False, "fillOpacity": shade},
                "encoding": {
                    "color": {"condition": {"test": "datum.gain > 0", "value": BLUE}, "value": RED}
                },
            },
            {
                "mark": {
                    "type": "text",
                    "aria": False,
                    "fontSize": expression(f"{narrow} ? 9 : 10"),
                },
                "encoding": {"text": {"value": expression(text)}},
            },
        ],
    }


def ranks() -> Spec:
    """Average ranks; where two bars do not overlap, Nemenyi's test tells the methods apart."""
    axis = {"title": None, "domain": False, "ticks": False, "labelOverlap": False, "grid": False}
    y = {
        "field": "title",
        "type": "nominal",
        "sort": None,
        "axis": {**axis, "labelLimit": expression("narrow ? 110 : 200")},
    }
    title = ["average rank by H, 1 is the best", "bar: ± half a critical difference"]
    # The bars may go beyond the first and the last rank; the axis does not.
    domain = [0, expression("methods + 1")]
    scale = {"domain": domain, "nice": False, "zero": False}
    x = field("rank", title=title, scale=scale, axis={"format": "d", "tickMinStep": 1})
    bar = calculate(low="max(datum.rank - half, 0)", high="min(datum.rank + half, methods + 1)")
    tip = "datum.title + ': average rank ' + format(datum.rank, '.1f')"
    return {
        "height": {"step": 15},
        "data": ROWS,
        "layer": [
            {
                "transform": bar,
                "mark": {"type": "rule", "strokeWidth": 5, "color": FAINT, "aria": False},
                "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y},
            },
            points(tip, x=x, y=y),
        ],
    }


def _cost(title: str, unit: str) -> Spec:
    """H against a cost; the line joins the methods that no other beats at their cost."""
    axis = {"values": expression("ticks"), "labelExpr": "format(datum.value, ',')", "grid": False}
    scale = {"type": "symlog", "constant": expression("threshold"), "nice": False}
    x = field("cost", title=f"{title}, logarithmic", axis=axis, scale=scale)
    y = field("y", title="H, %", scale={"zero": False})
    order = [{"field": "cost"}, {"field": "h", "order": "descending"}]
    best = {"op": "max", "field": "h", "as": "best"}
    before = {"op": "lag", "field": "best", "as": "before"}
    windows = [{"window": [one], "sort": order, "frame": [None, 0]} for one in (best, before)]
    front = "!isValid(datum.before) || datum.h > datum.before"
    tip = (
        f"datum.title + ': H ' + format(datum.h, '.1f') + ', ' + format(datum.cost, ',') + '{unit}'"
    )
    marks = points(tip, x=x, y=y)
    return {
        "height": 280,
        "data": ROWS,
        "transform": [*windows, *calculate(y="max(datum.h, lowest)")],
        "layer": [
            {
                "transform": [{"filter": front}],
                "mark": {
                    "type": "line",
                    "interpolate": "step-after",
                    "color": INK,
                    "strokeWidth": 1,
                    "aria": False,
                },
                "encoding": {"x": x, "y": y, "order": {"field": "cost"}},
            },
            marks,
            {**names(x=x, y=y), "transform": calculate(name=f"{front} ? datum.title : ''")},
        ],
    }


size = partial(_cost, "parameters of the module", "")
time = partial(_cost, "seconds of one fit", " s")
