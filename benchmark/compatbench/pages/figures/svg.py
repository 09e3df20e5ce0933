"""Figures as SVG: the same figure gives the same bytes, in a file or inside a page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from compatbench.files.atomic import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = {
    "blue": "#0072b2",
    "orange": "#e69f00",
    "green": "#009e73",
    "red": "#d55e00",
    "purple": "#cc79a7",
    "sky": "#56b4e9",
    "grey": "#777777",
}
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = COLOURS.values()
INK, FAINT, PAPER = "#1a1a1a", "#d9d9d9", "#ffffff"

SVG = "http://www.w3.org/2000/svg"
_HOVER = "hover: "
_LARGER = 1.5  # pixels per point: the text of a figure is as large as that of a caption
_COORDINATES = ("d", "x", "y", "width", "height", "transform")
_REFERENCE = re.compile(r"(?:url\(|href=\")#([^\")]+)")
# What report.css calls the colours of a figure; it has one of each for light and dark schemes.
_VARIABLES = {"ink": INK, "line": FAINT, "paper": PAPER, **COLOURS}


@contextmanager
def svg_style(*more: str, salt: str = "compatbench") -> Iterator[None]:
    """The style of figures: draw and render inside it, and the same figure gives the same bytes.

    ``more`` names further style files of this folder; ``salt`` makes a figure's ids its own.
    """
    import matplotlib.style

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        for name in ("all", *more):
            matplotlib.style.use(Path(__file__).with_name(f"{name}.mplstyle"))
        matplotlib.rcParams["svg.hashsalt"] = salt
        yield


def render_svg(figure: Figure) -> bytes:
    """The figure as SVG, without date, and without the version that drew it."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    lines = out.getvalue().decode().splitlines()
    return ("\n".join(line.rstrip() for line in lines) + "\n").encode()


def save_svg(figure: Figure, path: Path) -> None:
    """Writes a figure."""
    write_atomic(path, render_svg(figure))


def hover(title: str) -> str:
    """The ``gid`` of a mark, which gives it a title that shows when a reader points at it."""
    return _HOVER + title


def compact_svg(svg: bytes, label: str) -> str:
    """A file of matplotlib in fewer bytes, with titles for its marks, as an image with a label.

    Matplotlib repeats the style and six decimals for each mark. Styles become classes, because
    the policy of the page forbids ``style`` attributes.
    """
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    referenced = set(_REFERENCE.findall(svg.decode()))
    classes: dict[str, str] = {}
    for element in root.iter():
        if style := element.attrib.pop("style", None):
            element.set("class", classes.setdefault(style, f"s{len(classes)}"))
        for name in element.attrib.keys() & _COORDINATES:
            value = " ".join(element.attrib[name].split())
            element.set(name, re.sub(r"-?\d+\.\d{3,}", _two_decimals, value))
        if element.get("id", "") not in referenced:
            name = element.attrib.pop("id", "")
            if name.startswith(_HOVER):
                title = ElementTree.Element(f"{{{SVG}}}title")
                title.text = name.removeprefix(_HOVER)
                element.insert(0, title)
                element.set("class", "hover")
    # A narrow page makes the figure smaller: it has a width, and no height.
    width = float(root.attrib["width"].removesuffix("pt")) * _LARGER
    view = {"viewBox": root.attrib["viewBox"], "width": f"{width:.0f}"}
    root.attrib = {**view, "role": "img", "aria-label": label}
    sheet = root.find(f".//{{{SVG}}}style")
    assert sheet is not None
    rules = [f".{name}{{{style}}}" for style, name in classes.items()]
    sheet.text = "\n".join([sheet.text or "", *rules])
    _unwrap_groups(root)
    ElementTree.indent(root, "")
    text = ElementTree.tostring(root, encoding="unicode") + "\n"
    return re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", text)


def inline_svg(svg: str, name: str) -> tuple[str, str]:
    """A compact figure as markup for the element with this id, and the rules of its style."""
    before, sheet, after = re.split(r"</?style[^>]*>", svg)
    for variable, colour in _VARIABLES.items():
        sheet = sheet.replace(colour, f"var(--{variable})")
    return before + after, re.sub(r"^", f'[id="{name}"] ', sheet, flags=re.MULTILINE)


def _unwrap_groups(parent: ElementTree.Element) -> None:
    """Puts the children of a group without any attribute in its place."""
    children: list[ElementTree.Element] = []
    for child in parent:
        _unwrap_groups(child)
        children += child if child.tag == f"{{{SVG}}}g" and not child.attrib else [child]
    parent[:] = children


def _two_decimals(number: re.Match[str]) -> str:
    return f"{round(float(number[0]), 2):g}"
