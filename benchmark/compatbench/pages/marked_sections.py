"""Generated sections of a page, between ``<!-- name:begin -->`` and ``<!-- name:end -->``."""

from __future__ import annotations

from collections.abc import Sequence

from compatbench.errors import CompatbenchError


def find_sections(text: str, known: Sequence[str]) -> list[str]:
    """The known sections that a page has markers for, in the order of ``known``.

    Raises:
        CompatbenchError: the page has none, or the markers of one are not a pair.
    """
    found = []
    for name in known:
        begin, end = _markers(name)
        counts = text.count(begin), text.count(end)
        if counts == (0, 0):
            continue
        if counts != (1, 1) or text.index(begin) > text.index(end):
            raise CompatbenchError(
                f"the page needs '{begin.strip()}' once, and '{end}' once below it"
            )
        found.append(name)
    if not found:
        begin, end = _markers(known[0])
        raise CompatbenchError(
            f"the page has no markers to write between, such as '{begin.strip()}' and '{end}'"
        )
    return found


def fill_section(text: str, name: str, content: str) -> str:
    """The page with new content between the markers of one of its sections."""
    begin, end = _markers(name)
    before, rest = text.split(begin)
    return f"{before}{begin}{content.strip()}\n{end}{rest.split(end)[1]}"


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
