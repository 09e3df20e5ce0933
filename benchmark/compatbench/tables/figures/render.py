"""Specifications and their data as SVG files, drawn by vl-convert without a browser or a network.

The same specification and data give the same bytes: vl-convert brings its own JavaScript and the
font that text is measured in.
"""

from __future__ import annotations

import re
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compatbench.errors import CompatbenchError
from compatbench.tables.figures.colours import DARK, FAINT, GREY, INK, PAPER
from compatbench.tables.figures.kinds import FigureKind
from compatbench.tables.figures.spec_parts import COLUMNS, FONT, WIDTH, Shown, Spec

_VEGA_LITE = "6.4"
_SIGNATURE = re.compile(rb" by vl-convert ([\w.]+) (?:-->|\*/)\n\Z")
# Vega writes every digit of a coordinate. Texts and labels keep theirs: 0.001 is not 0.
_MANY_DIGITS = re.compile(r'(aria-label="[^"]*"|>[^<]+<)|-?\d+\.\d{3,}')
# Light on dark where the reader's system asks for it, also in an image of a page.
_DARK_RULES = "".join(
    f'[{what}="{light}"]{{{what}:{dark}}}'
    for light, dark in DARK.items()
    for what in ("fill", "stroke")
)
_DARK = f"@media (prefers-color-scheme:dark){{{_DARK_RULES}}}"
_CONFIG: Spec = {
    "font": FONT,
    "axis": {
        "domainColor": GREY,
        "gridColor": FAINT,
        "labelColor": INK,
        "labelFontSize": 11,
        "tickColor": GREY,
        "titleColor": INK,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
    },
    "header": {"labelColor": INK, "labelFontSize": 11},
    "legend": {"labelColor": INK, "labelFontSize": 11, "labelLimit": 240, "titleColor": INK,
               "titleFontSize": 11, "titleFontWeight": "normal"},
    "text": {"color": INK},
    "title": {"color": INK},
    "view": {"stroke": None},
}  # fmt: skip


def with_data(kind: FigureKind, shown: Shown, width: int | str = WIDTH) -> Spec:
    """The whole Vega-Lite specification of a figure.

    Args:
        width: pixels, or ``container``; of a kind that does not say how wide it is.
    """
    spec, kinds = kind.spec(), sorted({row["kind"] for row in shown.values if "kind" in row})
    if not spec.keys() & {"facet", "hconcat", "width"}:
        spec["width"] = width
    columns = spec.get("columns", COLUMNS)
    signals = {"narrow": False, "columns": columns, "kinds": kinds, **shown.signals}
    params = [{"name": name, "value": value} for name, value in signals.items()]
    return spec | {"config": _CONFIG, "params": params, "datasets": {"rows": shown.values}}


def render_svg_figure(kind: FigureKind, shown: Shown, label: str = "", said: str = "") -> bytes:
    """A figure as SVG.

    Args:
        label: what a screen reader says of it, by default the ``alt`` of its kind.
        said: a line below it.
    """
    import vl_convert

    spec = compile_figure(kind, shown)
    if said:
        text = {"fontSize": 10, "fontWeight": "normal", "color": GREY, "font": FONT}
        spec["title"] = {"text": said, **text, "orient": "bottom", "anchor": "start", "offset": 8}
    for mark in spec["marks"]:
        for transform in mark.get("transform", ()):
            transform.pop("avoidMarks", None)  # takes a canvas, which only browsers have
    spec["background"] = PAPER
    return _finish(vl_convert.vega_to_svg(spec), label or kind.alt)


def _finish(svg: str, label: str) -> bytes:
    """An SVG with what a screen reader says of it, and with two decimals of every coordinate."""
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
    svg = svg.replace(">", f"><style>{_DARK}</style>", 1)
    svg = _MANY_DIGITS.sub(lambda match: match[1] or f"{round(float(match[0]), 2):g}", svg)
    return f"{svg}\n<!-- drawn {name_program()} -->\n".encode()


def name_program() -> str:
    """What draws; the end of a file says it, for another version may place a tick elsewhere."""
    return f"by vl-convert {version('vl-convert-python')}"


def check_drawing(path: Path, committed: bytes, rendered: bytes) -> None:
    """Refuses a file that says it was drawn by another vl-convert."""
    old, new = _SIGNATURE.search(committed), _SIGNATURE.search(rendered)
    if old is not None and new is not None and old[1] != new[1]:
        there, here = old[1].decode(), new[1].decode()
        raise CompatbenchError(
            f"{path} was drawn by vl-convert {there}, and {here} is here; install "
            f"'vl-convert-python=={there}', or draw all anew: compatbench report"
        )


def compile_figure(kind: FigureKind, shown: Shown, width: int | str = WIDTH) -> Spec:
    """The Vega specification of a figure; ``width`` is as for ``with_data``."""
    import vl_convert

    spec = with_data(kind, shown, width)
    columns = spec.get("columns")
    vega = vl_convert.vegalite_to_vega(spec, vl_version=_VEGA_LITE)
    _place_names(vega["marks"], kind.first_side)
    if columns:
        vega["layout"]["columns"] = {"signal": "columns"}
        for data in vega["data"]:
            if data["name"] in ("facet_domain_row", "facet_domain_column"):
                stop = data["transform"][0]["stop"]
                stop["signal"] = re.sub(rf"\b{columns}\)$", "columns)", stop["signal"])
    return vega


def _place_names(marks: list[dict[str, Any]], first: str) -> None:
    """Lets Vega's ``label`` transform place names, which Vega-Lite does not offer.

    Args:
        first: the side of a mark that is tried first.
    """
    symbols = [mark["name"] for mark in marks if mark["type"] == "symbol"]
    for mark in marks:
        if mark.get("name") == "names_marks":
            for placed in ("align", "baseline"):
                mark["encode"]["update"].pop(placed, None)
            around = ["top-right", "right", "top", "top-left", "left", "bottom-right", "bottom"]
            around.sort(key=lambda side: side != first)
            mark["transform"] = [
                {
                    "type": "label",
                    "size": {"signal": "[max(width, 1), height]"},  # 0 while it is hidden
                    "anchor": [*around, *around],
                    "offset": [*[5] * len(around), *[13] * len(around)],
                    "avoidMarks": symbols,
                    "padding": 0,
                }
            ]
