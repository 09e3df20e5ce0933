"""A figure inside the page: names of its own, colours that follow the page's scheme."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from compatbench.report.canvas import FAINT, INK, PAPER
from compatbench.report.tidy import FAMILIES, SVG, XLINK
from compatbench.svg import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

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
_HREF = f"{{{XLINK}}}href"


def inline_svg(svg: str, name: str) -> tuple[str, str]:
    """A tidy figure as markup for a page, and its style sheet.

    Args:
        svg: of ``tidy_svg``.
        name: unlike that of any other figure of the page.
    """
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    sheet = ""
    for element in root.iter():
        for style in element.findall(f"{{{SVG}}}style"):
            sheet = style.text or ""
            element.remove(style)
        for attribute, value in element.attrib.items():
            if attribute == "id":
                element.set("id", f"{name}-{value}")
            elif attribute == _HREF and value.startswith("#"):
                element.set(_HREF, f"#{name}-{value[1:]}")
            elif attribute == "class" and value != "hover":
                element.set("class", f"{name}-{value}")
            elif value.startswith("url("):
                element.set(attribute, _REFERENCE.sub(rf"url(#{name}-\1)", value))
    width = float(root.attrib.pop("width").removesuffix("pt")) * 4 / 3
    root.attrib.pop("height")
    root.set("width", f"{width:.0f}")
    rules = _RULE.sub(rf".{name}-\1{{", sheet.partition("\n")[2]).replace(FAMILIES, "inherit")
    for colour, variable in VARIABLES.items():
        rules = rules.replace(colour, f"var({variable})")
    text = ElementTree.tostring(root, encoding="unicode")
    return re.sub(r">\n+<", "><", text), rules.strip()
