"""A figure inside the page: names of its own, colours that follow the page's scheme."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from compatbench.pages.report.canvas import FAINT, INK, PAPER
from compatbench.pages.report.tidy import FAMILIES, SVG, XLINK
from compatbench.pages.svg import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

# What a colour of a figure is called in page.css, which has one of each for either scheme.
VARIABLES = {
    INK: "--ink",
    FAINT: "--line",
    PAPER: "--paper",
    GREY: "--grey",
    BLUE: "--blue",
    ORANGE: "--orange",
    GREEN: "--green",
    RED: "--red",
    PURPLE: "--purple",
    SKY: "--sky",
}

_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_RULE = re.compile(r"^\.(s\d+)\{", re.MULTILINE)
_BETWEEN_TAGS = re.compile(r">\n+<")
_LARGER = 1.5  # pixels for a point: the letters of a figure are as large as those of a caption
_HREF = f"{{{XLINK}}}href"


def inline_svg(svg: str, name: str) -> tuple[str, str]:
    """A tidy figure as markup for a page, and its style sheet.

    Args:
        svg: of ``tidy_svg``.
        name: unlike that of any other figure of the page.
    """
    root = ElementTree.fromstring(svg)
    sheet = ""
    for parent in root.iter():
        for style in parent.findall(f"{{{SVG}}}style"):
            sheet = style.text or ""
            parent.remove(style)
    ids: dict[str, str] = {}
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        _rename(element, name, ids)
    width = float(root.attrib.pop("width").removesuffix("pt")) * _LARGER
    root.attrib.pop("height")
    root.set("width", f"{width:.0f}")
    root.attrib.pop("version", None)
    rules = _RULE.sub(rf".{name}\1{{", sheet.partition("\n")[2]).replace(FAMILIES, "inherit")
    for colour, variable in VARIABLES.items():
        rules = rules.replace(colour, f"var({variable})")
    text = ElementTree.tostring(root, encoding="unicode")
    return _BETWEEN_TAGS.sub("><", text).replace(" />", "/>"), rules.strip()


def _rename(element: ElementTree.Element, name: str, ids: dict[str, str]) -> None:
    """Gives ids and classes names that are the figure's own, and short."""

    def own(given: str) -> str:
        return ids.setdefault(given, f"{name}i{len(ids)}")

    for attribute, value in list(element.attrib.items()):
        if attribute == "id":
            element.set("id", own(value))
        elif attribute == _HREF:
            del element.attrib[_HREF]
            element.set("href", f"#{own(value.removeprefix('#'))}")
        elif attribute == "class" and value != "hover":
            element.set("class", name + value)
        elif found := _REFERENCE.fullmatch(value):
            element.set(attribute, f"url(#{own(found[1])})")
