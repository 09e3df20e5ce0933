"""Charts as SVG files, drawn by vl-convert without a browser or a network.

The same chart gives the same bytes: vl-convert brings its own JavaScript and the font that text is
measured in.
"""

from __future__ import annotations

import re
from copy import deepcopy
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import altair as alt

from compatbench.errors import CompatbenchError
from compatbench.tables.figures.charts import FigureData
from compatbench.tables.figures.colours import DARK, FAINT, GREY, INK, PAPER

Spec = dict[str, Any]
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"  # the first is what vl-convert measures
_VEGA_LITE = "6.4"
_SIGNATURE = re.compile(rb" by vl-convert ([\w.]+) (?:-->|\*/)\n\Z")
# Vega writes every digit of a coordinate. Texts and labels keep theirs: 0.001 is not 0.
_MANY_DIGITS = re.compile(r'(aria-label="[^"]*"|>[^<]+<)|-?\d+\.\d{3,}')
_TEXT = {"labelColor": INK, "labelFontSize": 11}
_TITLE = {"titleColor": INK, "titleFontSize": 11, "titleFontWeight": "normal"}
_CONFIG: Spec = {
    "font": FONT,
    "axis": {"domainColor": GREY, "gridColor": FAINT, "tickColor": GREY, **_TEXT, **_TITLE},
    "header": _TEXT,
    "legend": {"labelLimit": 240, **_TEXT, **_TITLE},
    "text": {"color": INK},
    "title": {"color": INK},
    "view": {"stroke": None},
}
# Where a name may be placed beside its mark, the best place first.
_SIDES = ["top-right", "right", "top", "top-left", "left", "bottom-right", "bottom"]


def render_chart(spec: Spec, label: str, note: str = "") -> bytes:
    """Return a compiled chart with its data as SVG.

    Args:
        spec: of ``compile_chart`` or ``fill_chart``; it is changed.
        label: what a screen reader says of it.
        note: a line below it.
    """
    import vl_convert

    if note:
        text = {"fontSize": 10, "fontWeight": "normal", "color": GREY, "font": FONT}
        spec["title"] = {"text": note, **text, "orient": "bottom", "anchor": "start", "offset": 8}
    for mark in spec["marks"]:
        for transform in mark.get("transform", ()):
            transform.pop("avoidMarks", None)  # takes a canvas, which only browsers have
    spec["background"] = PAPER
    svg = vl_convert.vega_to_svg(spec)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
    svg = svg.replace(">", f"><style>{_dark_style()}</style>", 1)
    svg = _MANY_DIGITS.sub(_round_coordinate, svg)
    return f"{svg}\n<!-- drawn {name_program()} -->\n".encode()


def compile_chart(chart: Any, width: str | None = None) -> Spec:
    """Return the Vega specification of a chart.

    Args:
        width: ``container`` for one that is as wide as its place.
    """
    import vl_convert

    if width is not None and not isinstance(chart, alt.FacetChart):
        chart = chart.properties(width=width)
    spec = chart.to_dict(validate=False) | {"config": _CONFIG}
    vega = vl_convert.vegalite_to_vega(spec, vl_version=_VEGA_LITE)
    _place_names(vega["marks"])
    if any(signal["name"] == "columns" for signal in vega.get("signals", ())):
        _count_columns_by_signal(vega)
    return vega


def fill_chart(vega: Spec, data: FigureData) -> Spec:
    """Return a compiled chart of this project with the rows and parameters of a figure."""
    filled = deepcopy(vega)
    kinds = sorted({row["kind"] for row in data.rows})
    values = {"kinds": kinds, **data.params}
    for signal in filled["signals"]:
        if signal["name"] in values:
            signal["value"] = values[signal["name"]]
    for table in filled["data"]:
        if table["name"] == "rows":
            table["values"] = data.rows
    return filled


def _place_names(marks: list[dict[str, Any]]) -> None:
    """Let Vega's ``label`` transform place names, which Vega-Lite does not offer."""
    symbols = [mark["name"] for mark in marks if mark["type"] == "symbol"]
    for mark in marks:
        if mark.get("name") == "names_marks":
            update = mark["encode"]["update"]
            update.pop("align", None)
            update.pop("baseline", None)
            label = {
                "type": "label",
                "size": {"signal": "[max(width, 1), height]"},  # 0 while it is hidden
                "anchor": [*_SIDES, *_SIDES],
                "offset": [5] * len(_SIDES) + [13] * len(_SIDES),
                "avoidMarks": symbols,
                "padding": 0,
            }
            mark["transform"] = [label]


def _count_columns_by_signal(vega: Spec) -> None:
    """Take the number of panels side by side from the signal ``columns``."""
    if "layout" not in vega:
        return
    fixed = vega["layout"]["columns"]
    vega["layout"]["columns"] = {"signal": "columns"}
    for data in vega["data"]:
        if data["name"] in ("facet_domain_row", "facet_domain_column"):
            stop = data["transform"][0]["stop"]
            stop["signal"] = re.sub(rf"\b{fixed}\)$", "columns)", stop["signal"])


def _dark_style() -> str:
    """Return the rules that make a figure light on dark where the reader's system asks for it."""
    rules = ""
    for light, dark in DARK.items():
        for what in ("fill", "stroke"):
            rules += f'[{what}="{light}"]{{{what}:{dark}}}'
    return f"@media (prefers-color-scheme:dark){{{rules}}}"


def _round_coordinate(match: re.Match[str]) -> str:
    return match[1] or f"{round(float(match[0]), 2):g}"


def name_program() -> str:
    """Name what draws. The end of a file says it: another version may place a tick elsewhere."""
    return f"by vl-convert {version('vl-convert-python')}"


def check_drawing(path: Path, committed: bytes, rendered: bytes) -> None:
    """Raise an error if a file says it was drawn by another vl-convert."""
    old, new = _SIGNATURE.search(committed), _SIGNATURE.search(rendered)
    if old is not None and new is not None and old[1] != new[1]:
        there, here = old[1].decode(), new[1].decode()
        raise CompatbenchError(
            f"{path} was drawn by vl-convert {there}, and {here} is here; install "
            f"'vl-convert-python=={there}', or draw all anew: compatbench report"
        )
