"""Tables on a terminal; where it is narrow, without their least important columns."""

from __future__ import annotations

import rich.table
from rich.text import Text

from compatbench.messages import printable
from compatbench.tables.table import Cell, Table

GAP = 2  # characters between columns
WORDS = 20  # characters that a column of words keeps; longer ones are folded


def render_table(shown: Table, width: int) -> rich.table.Table:
    """The table in so many characters; captions and notes are the caller's to print.

    The first column is never wrapped: it has names, which are to be copied.
    """
    shown = fit(shown, width)
    made = rich.table.Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for place, column in enumerate(shown.columns):
        side = "left" if column.left else "right"
        whole = not column.left or place == 0
        made.add_column(column.title, justify=side, no_wrap=whole, overflow="fold")
    for row in shown.rows:
        made.add_row(*map(render_cell, row))
    return made


def fit(shown: Table, width: int) -> Table:
    """The table without as many of its ``narrow`` parts as do not fit, the first ones first."""
    for key in shown.narrow:
        if _least_width(shown) <= width:
            break
        if key == "±":
            shown = shown.without_minor()
        else:
            shown = shown.select(c.key for c in shown.columns if c.key != key)
    return shown


def _least_width(shown: Table) -> int:
    widths = []
    for place, column in enumerate(shown.columns):
        widest = max(map(len, (column.title, *(row[place].text for row in shown.rows))))
        widths.append(min(widest, WORDS) if column.left else widest)
    return sum(widths) + GAP * (len(widths) - 1)


def render_cell(cell: Cell) -> Text:
    """A cell, what is best in green; no text in it is markup."""
    return Text.assemble(
        *(
            (printable(span.text, lambda _: " "), "bold green" if span.bold else span.tone)
            for span in cell.spans
        )
    )
