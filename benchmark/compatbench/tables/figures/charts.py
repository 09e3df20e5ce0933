"""The charts of results, built with Altair.

Each function returns the chart of a kind of figure, without data. The rows of a figure are the data
set ``rows``, and everything else in which two figures of a kind differ is a named parameter, whose
names the function takes. A chart is therefore compiled once: ``fill_chart`` draws it for each
figure, and the site for the rows that its filters leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import altair as alt

from compatbench.tables.figures.colours import BLUE, FAINT, GREEN, GREY, INK, ORANGE, RED

WIDTH = 480  # pixels of a figure in a file; on the site it is as wide as its place
COLUMNS = 4  # small panels side by side in a file; the site counts how many it has room for


class FigureData(NamedTuple):
    """The data of a figure.

    Attributes:
        rows: a record for each method.
        params: the values of the chart's parameters, by name.
    """

    rows: list[dict[str, Any]]
    params: dict[str, Any]


class Mark(NamedTuple):
    """The mark of methods of one kind. Shape and colour say the same."""

    shape: str
    colour: str
    title: str


# By kind of method, as a ranking has it.
MARKS: dict[str, Mark] = {
    "shallow": Mark("circle", ORANGE, "shallow"),
    "deep": Mark("square", BLUE, "deep"),
    "floor": Mark("diamond", INK, "zero-shot"),
    "transferred": Mark("triangle-up", GREEN, "through a transfer"),
}

# The part of the scatter that is shown, as an expression of Vega.
_INSIDE = "datum.source >= x0 && datum.source <= x1 && datum.target >= y0 && datum.target <= y1"
_TIP = (
    "datum.title + ': source ' + format(datum.source, '.1f')"
    " + ', target ' + format(datum.target, '.1f') + ', H ' + format(datum.h, '.1f')"
)


def scatter(params: Iterable[str]) -> alt.LayerChart:
    """Draw accuracy on the source against accuracy on the target, with lines of equal H.

    Parameters: ``x0``, ``x1``, ``y0`` and ``y1`` are the ends of the axes, ``step`` is the distance
    of two lines of equal H, and ``zero_source`` and ``zero_target`` are zero-shot's accuracies.
    Methods beyond the axes are hollow marks at the edge.
    """
    x = _accuracy_axis(alt.X, "x", "source accuracy, %")
    y = _accuracy_axis(alt.Y, "y", "target accuracy with the same module, %")
    rows = alt.Chart(alt.NamedData("rows")).transform_calculate(
        x="clamp(datum.source, x0, x1)", y="clamp(datum.target, y0, y1)"
    )
    hollow = alt.condition(_INSIDE, alt.value(1), alt.value(0))
    points = (
        rows.transform_calculate(tip=_TIP)
        .mark_point(filled=True, size=45, opacity=1)
        .encode(
            x,
            y,
            color=_by_kind(alt.Color, "colour"),
            stroke=_by_kind(alt.Stroke, "colour").legend(None),
            shape=_by_kind(alt.Shape, "shape"),
            fillOpacity=hollow,
            description="tip:N",
        )
    )
    joined = (
        rows.transform_filter("isValid(datum.before)")
        .transform_calculate(
            bx="clamp(datum.before[0], x0, x1)", by="clamp(datum.before[1], y0, y1)"
        )
        .mark_rule(color=GREY, strokeWidth=0.5, aria=False)
        .encode(x, y, x2="bx:Q", y2="by:Q")
    )
    # A figure of few methods names all of them. Where a name is placed: see ``render``.
    names = (
        rows.transform_calculate(
            name="datum.named || length(data('rows')) <= 15 ? datum.title : ''",
        )
        .mark_text(fontSize=10.5, color=INK, aria=False)
        .encode(x, y, text="name:N")
        .properties(name="names")
    )
    lines = [*_equal_h(x, y), _zero_shot("zero_source", "x"), _zero_shot("zero_target", "y")]
    layers = alt.layer(*lines, joined, points, names)
    return _add_params(layers.properties(width=WIDTH, height=400), params)


def _accuracy_axis(channel: Any, end: str, title: str) -> Any:
    scale = alt.Scale(domain=alt.ExprRef(f"[{end}0, {end}1]"), nice=False)
    return channel(f"{end}:Q", scale=scale, title=title, axis=alt.Axis(grid=False))


def _equal_h(x: alt.X, y: alt.Y) -> tuple[alt.Chart, alt.Chart]:
    """Draw lines of equal H, and their names above the figure."""
    lines = (
        alt.Chart(alt.sequence(0, 101, as_="i"))
        .transform_calculate(x="x0 + (x1 - x0) * datum.i / 100", h="sequence(step, 100, step)")
        .transform_flatten(["h"])
        .transform_calculate(y="datum.h * datum.x / max(2 * datum.x - datum.h, 0.001)")
        .transform_filter("datum.y >= y0 && datum.y <= y1")
        .mark_line(color=FAINT, strokeWidth=1, aria=False)
        .encode(x, y, detail="h:Q")
    )
    names = (
        alt.Chart(alt.sequence(1, 100, as_="i"))
        .transform_filter("datum.i % step == 0 && 2 * y1 > datum.i")
        .transform_calculate(x="datum.i * y1 / (2 * y1 - datum.i)", y="y1", name="'H ' + datum.i")
        .transform_filter("datum.x >= x0 && datum.x <= x1")
        .mark_text(color=GREY, dy=-7, fontSize=10, aria=False)
        .encode(x, y, text="name:N")
    )
    return lines, names


def _zero_shot(param: str, channel: str) -> alt.Chart:
    """Draw a dotted line at zero-shot's accuracy, where it is known and inside of the axis."""
    return (
        alt.Chart(alt.InlineData(values=[{}]))
        .transform_calculate(at=param)
        .transform_filter(f"isValid(datum.at) && datum.at >= {channel}0 && datum.at <= {channel}1")
        .mark_rule(color=GREY, strokeDash=[1, 3], aria=False)
        .encode(**{channel: "at:Q"})
    )


def _by_kind(channel: Any, what: str) -> Any:
    """Encode the kind of a method as its colour or shape, with a legend of the kinds shown."""
    scale = alt.Scale(domain=[*MARKS], range=[getattr(mark, what) for mark in MARKS.values()])
    titles = {kind: mark.title for kind, mark in MARKS.items()}
    legend = alt.Legend(
        title=None,
        orient="top",
        labelExpr=f"{titles}[datum.label]",
        values=alt.ExprRef("kinds"),
        symbolOpacity=1,
    )
    return channel("kind:N", scale=scale, legend=legend)


def matrix(params: Iterable[str]) -> alt.LayerChart:
    """Draw the gain of every method on every dataset as a colour and a number.

    Rows have their ``gains``; the parameter ``sets`` has the names of the datasets.
    """
    axis = {"title": None, "domain": False, "ticks": False, "labelOverlap": False}
    above = alt.Axis(**axis, orient="top", labelAngle=-45, labelLimit=110)
    beside = alt.Axis(**axis, labelLimit=alt.ExprRef("narrow ? 96 : 200"))
    cells = (
        alt.Chart(alt.NamedData("rows"))
        .transform_calculate(set="sets")
        .transform_flatten(["gains", "set"], as_=["gain", "set"])
        .encode(
            alt.X("set:N", sort=None, axis=above),
            alt.Y("title:N", sort=None, axis=beside),
        )
    )
    # The colour is full from 15 points on, and never so dark that a number on it is lost.
    fill = alt.ExprRef("0.7 * min(abs(datum.gain) / 15, 1)")
    colour = alt.condition("datum.gain > 0", alt.value(BLUE), alt.value(RED))
    squares = cells.mark_rect(aria=False, fillOpacity=fill).encode(color=colour)
    # Narrow cells have no room for a decimal. A gain that rounds to zero has no sign.
    narrow = "bandwidth('x') < 30"
    number = (
        "datum.gain === null ? '–'"
        f" : abs(datum.gain) < ({narrow} ? 0.5 : 0.05) ? ({narrow} ? '0' : '0.0')"
        f" : format(datum.gain, {narrow} ? '+.0f' : '+.1f')"
    )
    size = alt.ExprRef(f"{narrow} ? 9 : 10")
    numbers = cells.mark_text(aria=False, fontSize=size).encode(text=alt.value(alt.ExprRef(number)))
    chart = alt.layer(squares, numbers)
    return _add_params(chart.properties(width=WIDTH, height=alt.Step(16)), params)


def shots(params: Iterable[str]) -> alt.FacetChart:
    """Draw accuracy on both models against the number of training images, a panel per method."""
    return panels(
        params,
        x_title="shots",
        y_title="accuracy, %",
        colours=(BLUE, RED, BLUE, RED),
        solid=2,
        width=105,
        height=95,
        columns=COLUMNS,
    )


def panels(
    params: Iterable[str],
    *,
    x_title: str,
    y_title: str,
    colours: Sequence[str],
    solid: int,
    width: int,
    height: int,
    columns: int,
    named_at_end: bool = False,
) -> alt.FacetChart:
    """Draw lines in a small panel for each method, in the order of the rows.

    Rows have the names of their lines as ``line``, with a list of places (``at``) and one of
    accuracies (``accuracy``) for each. Parameters: ``order`` has the names of all lines, ``ticks``
    the places along x and ``names`` what stands there.

    Args:
        colours: of the lines in their order.
        solid: how many of the first lines are solid, with a mark at each place.
        named_at_end: write the name of a line at its end, at the height that the rows give as
            ``label``, in place of a legend.
    """
    last = "ticks[length(ticks) - 1]"
    legend, scale = None, alt.Undefined
    if named_at_end:  # half of a panel is for the names
        scale = alt.Scale(domain=alt.ExprRef(f"[0, 2.1 * {last}]"), nice=False)
    else:
        legend = alt.Legend(title=None, orient="top", columns=2, symbolType="stroke")
    order = alt.ExprRef("order")
    dashes = [[1, 0] if place < solid else [3, 2] for place in range(len(colours))]
    ticks = alt.Axis(
        values=alt.ExprRef("ticks"), labelExpr="names[indexof(ticks, datum.value)]", grid=False
    )
    base = alt.Chart().encode(
        alt.X("at:Q", title=x_title, scale=scale, axis=ticks),
        alt.Y("accuracy:Q", title=y_title, scale=alt.Scale(zero=False)),
        alt.Color("line:N", scale=alt.Scale(domain=order, range=[*colours]), legend=legend),
        alt.Description("tip:N"),
    )
    dash = alt.StrokeDash("line:N", scale=alt.Scale(domain=order, range=dashes), legend=legend)
    layers = [
        base.mark_line(strokeWidth=1.4).encode(dash),
        base.transform_filter(f"indexof(order, datum.line) < {solid}").mark_point(
            size=14, filled=True, opacity=1
        ),
    ]
    per_line: list[str | alt.FieldName] = ["line", "at", "accuracy"]
    if named_at_end:
        per_line.append("label")
        height_of_name = alt.Y("label:Q", title=y_title)
        ends = base.transform_filter(f"datum.at == {last}").encode(height_of_name, text="line:N")
        layers.append(ends.mark_text(align="left", dx=5, fontSize=9.5, aria=False))
    header = alt.Header(title=None, labelLimit=width + 20, labelFontWeight="bold", labelPadding=4)
    in_order = alt.EncodingSortField("place", op="min")
    chart = (
        alt.layer(*layers)
        .properties(width=width, height=height)
        .facet(
            alt.Facet("title:N", sort=in_order, header=header),
            columns=columns,
            data=alt.NamedData("rows"),
            spacing=alt.RowColnumber(row=14, column=16),
        )
        .transform_window(place="row_number()")
        .transform_flatten(per_line)
        .transform_flatten(["at", "accuracy"])
        .transform_filter("isValid(datum.accuracy)")
        .transform_calculate(
            tip="datum.title + ', ' + datum.line + ': ' + format(datum.accuracy, '.1f')"
        )
    )
    return _add_params(chart, params, columns)


def _add_params(chart: Any, params: Iterable[str], columns: int = COLUMNS) -> Any:
    """Return the chart with its parameters, and a data set without rows.

    Further parameters are ``kinds``, those of the rows, and two that the site sets: ``narrow``, if
    the place is, and ``columns``, the number of panels side by side.
    """
    values = {"narrow": False, "columns": columns, "kinds": [], **dict.fromkeys(params)}
    named = [alt.param(name=name, value=value) for name, value in values.items()]
    return chart.add_params(*named).properties(datasets={"rows": []})
