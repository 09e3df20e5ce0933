"""Markdown that no text of a card or result can break: escaping, tables, numbers, sections."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from compatbench.errors import CompatbenchError
from compatbench.files.sizes import format_bytes
from compatbench.messages import one_line

if TYPE_CHECKING:
    from compatbench.results.bootstrap import Interval
    from compatbench.results.standing import Mean

NOTHING = "–"
_SPECIAL = re.compile(r"[\\`*\[\]<>|~&#$]|!(?=\[)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_BLOCK_START = re.compile(r"^(\d*)([-+=.)])(?=[-=\s]|$)")
# GitHub makes links of bare addresses without any markup; of mail addresses even if escaped.
_AUTOLINK = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)
_MAIL = re.compile(r"(?<=\S)@(?=\S)")
_PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5})(v\d+)?", re.IGNORECASE)
_SAFE_CODE = re.compile(r"[A-Za-z0-9_.,:/ +=-]+")


def escape(text: str, longest: int = 200) -> str:
    """Text as Markdown that shows that text, on one line, anywhere in a page.

    An ``@`` inside a word is set apart, so that it makes no link.
    """
    line = _MAIL.sub(" @ ", one_line(text, longest))
    line = _SPECIAL.sub(r"\\\g<0>", line)
    line = _AUTOLINK.sub(r"\\\g<0>", line)
    return _BLOCK_START.sub(r"\1\\\2", line)


def escape_summary(text: str) -> str:
    """Text as a ``<summary>`` element of a Markdown page shows it."""
    return html.escape(_MAIL.sub(" @ ", one_line(text)), quote=False)


def code(name: str) -> str:
    """A name in code type, or escaped if it holds anything that could end the code."""
    return f"`{name}`" if _SAFE_CODE.fullmatch(name) and name == name.strip() else escape(name)


def paper_id(paper: str) -> str | None:
    """The arXiv identifier, or None if the paper is published elsewhere."""
    match = _PAPER.fullmatch(paper)
    return match[1] if match else None


def slug(heading: str) -> str:
    """What a link says after ``#`` to reach a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def linked(title: str, paper: str) -> str:
    """A title that refers to its paper; ``link_definitions`` goes at the end of the page."""
    identifier = paper_id(paper)
    return f"[{escape(title)}][{identifier}]" if identifier else escape(title)


def link_definitions(papers: Iterable[str]) -> list[str]:
    """The targets of the references of ``linked``, one a line."""
    identifiers = sorted({found for paper in papers if (found := paper_id(paper))})
    return [f"[{one}]: https://arxiv.org/abs/{one}" for one in identifiers]


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: Iterable[int] = (0,)
) -> list[str]:
    """A table, padded to be read as plain text too; cells must be escaped already.

    Columns of text are aligned ``left``; all others hold numbers.
    """
    columns = list(zip(header, *rows, strict=True))
    for i, column in enumerate(columns):
        width = max(3, *map(len, column))
        if i in left:
            cells, rule = [cell.ljust(width) for cell in column], "-" * width
        else:
            cells, rule = [cell.rjust(width) for cell in column], "-" * (width - 1) + ":"
        columns[i] = (cells[0], rule, *cells[1:])
    return [f"| {' | '.join(line)} |" for line in zip(*columns, strict=True)]


def is_best(values: Sequence[float | None]) -> list[bool]:
    """Whether each value is the highest of its column, as shown with one decimal."""
    best = percent(max((value for value in values if value is not None), default=None))
    return [value is not None and percent(value) == best for value in values]


def bold_best(values: Sequence[float | None], cells: Sequence[str]) -> list[str]:
    """The cells of a column, the best in bold; all that show the same best figure are."""
    marked = zip(is_best(values), cells, strict=True)
    return [f"**{cell}**" if best else cell for best, cell in marked]


def percent(value: float | None) -> str:
    """One decimal, never ``-0.0``."""
    # Adding 0 makes -0.0 the 0 that it is.
    return NOTHING if value is None else f"{round(value, 1) + 0:.1f}"


def signed(value: float | None) -> str:
    """One decimal with its sign; ``0.0`` has none."""
    text = percent(value)
    return text if text in (NOTHING, "0.0") or text.startswith("-") else f"+{text}"


def spread(mean: Mean | None) -> str:
    """``44.9 ± 0.4``, or the mean alone if there is one seed."""
    if mean is None:
        return NOTHING
    return percent(mean.value) + ("" if mean.std is None else f" ± {percent(mean.std)}")


def duration(seconds: float | None) -> str:
    """``11.7 s``, or ``<0.1 s``."""
    if seconds is None:
        return NOTHING
    return "<0.1 s" if seconds < 0.05 else f"{seconds:,.1f} s"


def size(number: float | None) -> str:
    """``32.0 KiB``."""
    return NOTHING if number is None else format_bytes(number)


def bounds(interval: Interval | None, show: Callable[[float | None], str] = percent) -> str:
    """``42.9 to 63.1``; nothing where only one dataset is known."""
    if interval is None or not interval.bounded:
        return NOTHING
    return f"{show(interval.low)} to {show(interval.high)}"


def fill_section(text: str, name: str, content: str) -> str:
    """The page with new content between ``<!-- name:begin -->`` and ``<!-- name:end -->``."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    parts = re.split(f"({begin}\n|{end})", text)
    if parts[1::2] != [f"{begin}\n", end]:
        raise CompatbenchError(f"the page needs '{begin}' once, and '{end}' once below it")
    return f"{parts[0]}{begin}\n{content.strip()}\n{end}{parts[4]}"
