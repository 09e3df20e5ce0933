"""Tables on a terminal; where it is narrow, without their least important columns."""

from __future__ import annotations

import io

import rich.table
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from compatbench.messages import printable
from compatbench.tables.table import Table, TableCell

GAP = 2  # characters between columns
WORDS = 20  # characters that a column of words keeps, as long as all columns are shown
# What a column keeps as the terminal gets narrower, and whether names and titles are folded, too.
STAGES = ((WORDS, False), (10, False), (10, True), (4, True))


def render_table(shown: Table, width: int) -> rich.table.Table:
    """Return the table in so many characters; captions and notes are the caller's to print.

    What is too long is folded: words, the longest more than others; only then names, which stand
    in the first column and are to be copied, and titles. Numbers are never.
    """
    shown = fit(shown, width)
    made = rich.table.Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column, space in zip(shown.columns, _divide(shown, width), strict=True):
        side = "left" if column.left else "right"
        made.add_column(column.title, justify=side, overflow="fold", width=space)
    for row in shown.rows:
        made.add_row(*map(render_cell, row))
    return made


def as_text(shown: Table, width: int) -> str:
    """Return the table as plain text in so many characters."""
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as captured:
        console.print(render_table(shown, width))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def fit(shown: Table, width: int) -> Table:
    """Return the table without the ``narrow`` parts that do not fit; the first ones go first."""
    for key in shown.narrow:
        if _total(_widths(shown, WORDS)) <= width:
            break
        if key == "±":
            shown = shown.without_minor()
        else:
            kept = [column.key for column in shown.columns if column.key != key]
            shown = shown.select(kept)
    return shown


def _divide(shown: Table, width: int) -> list[int]:
    """Return how many characters each column gets."""
    spaces = _widths(shown)
    for most, everywhere in STAGES:
        least = _widths(shown, most, everywhere)
        while _total(spaces) > width and spaces != least:
            wider = [place for place, space in enumerate(spaces) if space > least[place]]
            widest = max(wider, key=lambda place: (spaces[place], place))
            spaces[widest] -= 1
    return spaces


def _total(widths: list[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _widths(shown: Table, most: int = 1_000, everywhere: bool = False) -> list[int]:
    """Return the widths of columns: at most so many characters of words.

    Args:
        everywhere: limit names and titles, too.
    """
    widths = []
    for place, column in enumerate(shown.columns):
        folded = everywhere or (column.left and place > 0)
        limit = most if folded else 1_000
        width = min(cell_len(column.title), limit)
        for row in shown.rows:
            text = render_cell(row[place])
            is_number = not column.left and any(map(str.isdigit, text.plain))
            width = max(width, min(text.cell_len, 1_000 if is_number else limit))
        widths.append(width)
    return widths


def render_cell(cell: TableCell) -> Text:
    """Return a cell, the best in green; no text in it is markup."""
    parts = []
    for span in cell.spans:
        style = "bold green" if span.bold else span.tone
        parts.append((printable(span.text, lambda _: " "), style))
    return Text.assemble(*parts)
