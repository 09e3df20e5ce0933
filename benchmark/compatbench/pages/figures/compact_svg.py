"""SVG as matplotlib writes it, made smaller and accessible, and put inside a page.

A figure with a few hundred marks repeats the same style and six decimals for each of them. Styles
become classes, because the policy of the page forbids ``style`` attributes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
HOVER = "hover-"
FAMILIES = "'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"

_LARGER = 1.5  # pixels per point: the text of a figure is as large as that of a caption
_AROUND_LETTER = re.compile(r" ?([A-Za-z]) ?")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_REFERENCE = re.compile(r"(?:url\(|href=\")#([^\")]+)")
# Matplotlib lists every family that it would try.
_FAMILIES = re.compile(r"(font-family:|font: [^';]*px) '[^;]*")
_NO_TURN = re.compile(r"rotate\(-?0 [^)]*\)")
_NUMBERS = ("d", "x", "y", "width", "height", "transform")
_SHEET = re.compile(r"<style[^>]*>(.*?)</style>", re.DOTALL)


def compact_svg(svg: bytes, titles: Sequence[str], label: str) -> str:
    """The same picture in fewer bytes, with the role of an image and a label.

    Args:
        svg: a file that matplotlib has written.
        titles: the title of the group ``hover-<i>`` at place i.
        label: of the picture as a whole.

    Raises:
        ParseError: it is not XML.
    """
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    used = set(_REFERENCE.findall(svg.decode()))
    classes: dict[str, str] = {}
    for element in root.iter():
        style = element.attrib.pop("style", None)
        if style is not None:
            style = _FAMILIES.sub(rf"\1 {FAMILIES}", style)
            element.set("class", classes.setdefault(style, f"s{len(classes)}"))
        if _NO_TURN.fullmatch(element.get("transform", "")):
            del element.attrib["transform"]
        for name in element.attrib.keys() & _NUMBERS:
            value = _LONG_NUMBER.sub(_round, " ".join(element.attrib[name].split()))
            element.set(name, _AROUND_LETTER.sub(r"\1", value) if name == "d" else value)
        name = element.get("id", "")
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
    _unwrap_groups(root)
    root.set("role", "img")
    root.set("aria-label", label)
    sheet = root.find(f".//{{{SVG}}}style")
    if sheet is None:
        sheet = ElementTree.Element(f"{{{SVG}}}style")
        root.insert(0, sheet)
    rules = [f".{name}{{{style}}}" for style, name in classes.items()]
    sheet.text = "\n".join(["*{stroke-linejoin: round; stroke-linecap: butt}", *rules, ""])
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def inline_svg(svg: str, name: str, colours: Mapping[str, str]) -> tuple[str, str]:
    """A compact figure as markup for a page, and the rules of its style sheet.

    Args:
        name: a class for the figure, different from that of any other figure of the page.
        colours: what stands in the page for each colour of a figure, such as a CSS variable.
    """
    found = _SHEET.search(svg)
    rules = found[1].partition("\n")[2].replace(FAMILIES, "inherit") if found else ""
    for colour, value in colours.items():
        rules = rules.replace(colour, value)
    markup = _SHEET.sub("", svg.partition("<!-- drawn from")[0])
    markup = re.sub(r">\n+<", "><", markup).replace(" />", "/>").strip()
    return _resize(markup, name), re.sub(r"^\.", f".{name} .", rules, flags=re.MULTILINE).strip()


def _resize(markup: str, name: str) -> str:
    """The width in pixels, and no height: a narrow page makes the figure smaller."""
    root, body = markup.split(">", 1)
    width = re.search(r' width="([\d.]+)pt"', root)
    pixels = float(width[1]) * _LARGER if width else 0.0
    root = re.sub(r' (width|height|version)="[^"]*"', "", root)
    return f'{root} class="{name}" width="{pixels:.0f}">{body}'


def _unwrap_groups(parent: ElementTree.Element) -> None:
    """Puts the children of a group without any attribute in its place."""
    children: list[ElementTree.Element] = []
    for child in parent:
        _unwrap_groups(child)
        children += list(child) if child.tag == f"{{{SVG}}}g" and not child.attrib else [child]
    parent[:] = children


def _round(number: re.Match[str]) -> str:
    shown = f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if shown == "-0" else shown
