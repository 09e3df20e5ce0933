"""Markdown that no text of a card or result can break: escaping, tables, sections."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from compatbench.errors import CompatbenchError
from compatbench.messages import one_line
from compatbench.tables.table import Span, Table, TableCell, text

_SPECIAL = re.compile(r"[\\`*\[\]<>|~&#$]|!(?=\[)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_BLOCK_START = re.compile(r"^(\d*)([-+=.)])(?=[-=\s]|$)")
# GitHub makes links of bare addresses without any markup; of mail addresses even if escaped.
_AUTOLINK = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)
_MAIL = re.compile(r"(?<=\S)@(?=\S)")
_PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5})(v\d+)?", re.IGNORECASE)
_SAFE_CODE = re.compile(r"[A-Za-z0-9_.,:/ +=-]+")


def escape(text: str, longest: int = 200) -> str:
    """Return text as Markdown that shows this text, on one line, anywhere in a page.

    An ``@`` inside a word is set apart, so that it makes no link.
    """
    line = _MAIL.sub(" @ ", one_line(text, longest))
    line = _SPECIAL.sub(r"\\\g<0>", line)
    line = _AUTOLINK.sub(r"\\\g<0>", line)
    return _BLOCK_START.sub(r"\1\\\2", line)


def code(name: str) -> str:
    """Return a name in code type, or escaped if it contains anything that could end the code."""
    if _SAFE_CODE.fullmatch(name) and name == name.strip():
        return f"`{name}`"
    return escape(name)


def paper_id(paper: str) -> str | None:
    """Return the arXiv identifier, or None if the paper is published elsewhere."""
    match = _PAPER.fullmatch(paper)
    if match is None:
        return None
    return match[1]


def slug(heading: str) -> str:
    """Return the part of a link after ``#`` that reaches a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def define_links(text: str) -> str:
    """Return the targets of all references to papers in a text, one a line."""
    papers = sorted(set(re.findall(r"\]\[(\d{4}\.\d{4,5})\]", text)))
    return "\n".join(f"[{paper}]: https://arxiv.org/abs/{paper}" for paper in papers)


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: Iterable[int] = (0,)
) -> list[str]:
    """Return the lines of a table; cells must be escaped already.

    The columns ``left`` are aligned left; all others hold numbers.
    """
    rule = ["---:"] * len(header)
    for place in left:
        rule[place] = "---"
    lines = []
    for row in (header, rule, *rows):
        line = "|"
        for cell in row:
            line += f" {cell} |" if cell else " |"
        lines.append(line)
    return lines


def render_table(shown: Table, longest: int = 200) -> str:
    """Return a table with its caption above and its notes below; texts are cut to ``longest``."""
    left = [place for place, column in enumerate(shown.columns) if column.left]
    header = [render_cell(text(column.title, column.paper)) for column in shown.columns]
    rows = []
    for row in shown.rows:
        rows.append([render_cell(cell, longest) for cell in row])
    lines = table(header, rows, left)
    parts = []
    if shown.caption is not None:
        parts.append(render_cell(shown.caption, longest))
    parts.append("\n".join(lines))
    if shown.notes:
        parts.append("\n".join(f"* {escape(note, longest)}" for note in shown.notes))
    return "\n\n".join(parts)


def render_cell(cell: TableCell, longest: int = 200) -> str:
    """Return a cell as Markdown; bold spans that follow each other share one pair of asterisks."""
    rendered = ""
    for bold, spans in groupby(cell.spans, key=lambda span: span.bold):
        joined = "".join(_render_span(span, longest) for span in spans)
        if bold:
            joined = f"**{joined}**"
        rendered += joined
    return rendered


def _render_span(span: Span, longest: int) -> str:
    if span.style == "number":
        return span.text
    shown = code(span.text) if span.style == "code" else escape(span.text, longest)
    identifier = paper_id(span.paper)
    if identifier is None:
        return shown
    return f"[{shown}][{identifier}]"


def fill_section(text: str, name: str, content: str) -> str:
    """Return a page with new content between ``<!-- name:begin -->`` and ``<!-- name:end -->``."""
    begin = f"<!-- {name}:begin -->"
    end = f"<!-- {name}:end -->"
    parts = re.split(f"({begin}\n|{end})", text)
    if parts[1::2] != [f"{begin}\n", end]:
        raise CompatbenchError(f"the page needs '{begin}' once, and '{end}' once below it")
    return f"{parts[0]}{begin}\n{content.strip()}\n{end}{parts[4]}"
