"""Tables on a terminal; where it is narrow, without their least important columns."""

from __future__ import annotations

import rich.table
from rich.cells import cell_len
from rich.text import Text

from compatbench.messages import printable
from compatbench.tables.table import Table, TableCell

GAP = 2  # characters between columns
WORDS = 20  # characters that a column of words keeps, as long as all columns are shown
# What a column keeps as the terminal gets narrower, and whether names and titles are folded, too.
STAGES = ((WORDS, False), (10, False), (10, True), (4, True))


def render_table(shown: Table, width: int) -> rich.table.Table:
    """The table in so many characters; captions and notes are the caller's to print.

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


def fit(shown: Table, width: int) -> Table:
    """The table without as many of its ``narrow`` parts as do not fit, the first ones first."""
    for key in shown.narrow:
        if _total(_widths(shown, WORDS)) <= width:
            break
        if key == "±":
            shown = shown.without_minor()
        else:
            shown = shown.select(c.key for c in shown.columns if c.key != key)
    return shown


def _divide(shown: Table, width: int) -> list[int]:
    """How many characters each column has."""
    spaces = _widths(shown)
    for least in (_widths(shown, *stage) for stage in STAGES):
        while _total(spaces) > width and spaces != least:
            _, widest = max((s, i) for i, s in enumerate(spaces) if s > least[i])
            spaces[widest] -= 1
    return spaces


def _total(widths: list[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _widths(shown: Table, most: int = 1_000, everywhere: bool = False) -> list[int]:
    """What columns take: at most so many characters of words, or of names and titles, too."""
    widths = []
    for place, column in enumerate(shown.columns):
        folded = everywhere or (column.left and place > 0)
        lengths = [min(cell_len(column.title), most if folded else 1_000)]
        for text in (render_cell(row[place]) for row in shown.rows):
            is_number = not column.left and any(map(str.isdigit, text.plain))
            lengths.append(min(text.cell_len, most if folded and not is_number else 1_000))
        widths.append(max(lengths))
    return widths


def render_cell(cell: TableCell) -> Text:
    """A cell, what is best in green; no text in it is markup."""
    return Text.assemble(
        *(
            (printable(span.text, lambda _: " "), "bold green" if span.bold else span.tone)
            for span in cell.spans
        )
    )
