"""SVG as matplotlib writes it, made small: styles named once, no more digits than can be seen.

A figure with a few hundred marks repeats the same style and six decimals for each of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
HOVER = "hover-"
FAMILIES = "'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"

_AROUND_LETTER = re.compile(r" ?([A-Za-z]) ?")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
# Matplotlib lists every family it would try.
_FAMILIES = re.compile(r"(font-family:|font: [^';]*px) '[^;]*")
_NO_TURN = re.compile(r"rotate\(-?0 [^)]*\)")
_NUMBERS = ("d", "x", "y", "width", "height", "transform")


def tidy_svg(svg: bytes, titles: Sequence[str], label: str) -> str:
    """The same picture in fewer bytes.

    Args:
        svg: a file that matplotlib has written.
        titles: the title of the group ``hover-<i>`` at place i.
        label: of the picture as a whole.

    Raises:
        ParseError: it is no XML.
    """
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    classes: dict[str, str] = {}
    used = set(_REFERENCE.findall(svg.decode()))
    used |= {href.removeprefix("#") for e in root.iter() if (href := e.get(f"{{{XLINK}}}href"))}
    for element in root.iter():
        _tidy_element(element, classes, used, titles)
    _unwrap_groups(root)
    root.set("role", "img")
    root.set("aria-label", label)
    _write_style(root, classes)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _tidy_element(
    element: ElementTree.Element, classes: dict[str, str], used: set[str], titles: Sequence[str]
) -> None:
    style = element.attrib.pop("style", None)
    if style is not None:
        style = _FAMILIES.sub(rf"\1 {FAMILIES}", style)
        element.set("class", classes.setdefault(style, f"s{len(classes)}"))
    if _NO_TURN.fullmatch(element.get("transform", "")):
        del element.attrib["transform"]
    for name in _NUMBERS:
        if name in element.attrib:
            value = _LONG_NUMBER.sub(_short, " ".join(element.attrib[name].split()))
            element.set(name, _AROUND_LETTER.sub(r"\1", value) if name == "d" else value)
    name = element.attrib.get("id", "")
    if name not in used:
        element.attrib.pop("id", None)
    if name.startswith(HOVER):
        title = ElementTree.Element(f"{{{SVG}}}title")
        title.text = titles[int(name.removeprefix(HOVER))]
        element.insert(0, title)
        element.set("class", "hover")
    if not (element.text or "").strip():
        element.text = "\n" if len(element) else None
    if not (element.tail or "").strip():
        element.tail = "\n"


def _unwrap_groups(parent: ElementTree.Element) -> None:
    """Puts what a group without any attribute holds in its place."""
    children: list[ElementTree.Element] = []
    for child in parent:
        _unwrap_groups(child)
        children += list(child) if child.tag == f"{{{SVG}}}g" and not child.attrib else [child]
    parent[:] = children


def _short(number: re.Match[str]) -> str:
    shown = f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if shown == "-0" else shown


def _write_style(root: ElementTree.Element, classes: dict[str, str]) -> None:
    """Fills the sheet that matplotlib has left in the picture."""
    sheet = root.find(f".//{{{SVG}}}style")
    if sheet is None:
        sheet = ElementTree.Element(f"{{{SVG}}}style")
        root.insert(0, sheet)
    rules = [f".{name}{{{style}}}" for style, name in classes.items()]
    sheet.text = "\n".join(["*{stroke-linejoin: round; stroke-linecap: butt}", *rules, ""])
