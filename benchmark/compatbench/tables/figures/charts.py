"""Charts of studies and of pages that programs write: plain Vega-Lite, with the parts they share.

A chart shows records. Those with a ``series`` have its colour and stand in the legend.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from compatbench.files.atomic import write_atomic
from compatbench.tables.figures.colours import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY
from compatbench.tables.figures.render import draw as draw
from compatbench.tables.figures.spec_parts import Spec

Rows = Sequence[dict[str, Any]]

COLOURS = (BLUE, ORANGE, GREY, RED, GREEN, PURPLE, SKY)


def axis(field: str, title: str | Sequence[str], **more: Any) -> Spec:
    """A quantity along an axis; ``log``, ``zero`` and ``domain`` are of its scale."""
    scale: Spec = {"zero": more.pop("zero", False)}
    if more.pop("log", False):
        scale = {"type": "log", "nice": False}
    if domain := more.pop("domain", None):
        scale["domain"] = domain
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, "axis": more}


def named_axis(field: str, title: str, names: Sequence[str], **more: Any) -> Spec:
    """An axis of the places 0, 1, …, which have these names; empty ones have no tick."""
    places = [place for place, name in enumerate(names) if name]
    label = f"{[*names]!r}[datum.value]"
    return axis(field, title, values=places, labelExpr=label, grid=False, **more)


def colour(names: Sequence[str], colours: Sequence[str] = COLOURS) -> Spec:
    """The field ``series`` as a colour with a legend above, in the order of the names."""
    scale = {"domain": [*names], "range": [*colours[: len(names)]]}
    legend = {"orient": "top", "title": None}
    return {"field": "series", "type": "nominal", "scale": scale, "legend": legend}


def layer(kind: str, place: Spec, rows: Rows | None = None, **style: Any) -> Spec:
    """Marks of a kind, such as ``line`` or ``rule``, of the chart's records or of others."""
    given = {} if rows is None else {"data": {"values": [*rows]}}
    return {**given, "mark": {"type": kind, **style}, "encoding": place}


def means(x: Spec, y: Spec, names: Sequence[str], colours: Sequence[str] = COLOURS) -> list[Spec]:
    """A line with points for each series, and a bar from ``low`` to ``high`` at each point."""
    place = {"x": x, "color": colour(names, colours)}
    bar = {**place, "y": {**y, "field": "low"}, "y2": {"field": "high"}}
    return [layer("rule", bar), layer("line", {**place, "y": y}, point={"size": 30})]


def level(channel: str, value: float, **style: Any) -> Spec:
    """A line across the chart at a value."""
    return layer("rule", {channel: {"datum": value}}, [{}], color=GREY, **style)


def chart(layers: Iterable[Spec], width: int, height: int, **more: Any) -> Spec:
    """One panel of layers; ``more`` are fields of Vega-Lite, such as ``data`` and ``title``."""
    return {"layer": [*layers], "width": width, "height": height, **more}


def curves(rows: Rows, x: Spec, y: Spec, names: Sequence[str]) -> Spec:
    """A line with points for each ``series`` of the records."""
    place = {"x": x, "y": y, "color": colour(names)}
    return chart([layer("line", place, rows, point={"size": 35})], 460, 260)


def save_chart(spec: Spec, path: Path, label: str) -> None:
    """Writes a chart."""
    write_atomic(path, draw(spec, label))
