"""Frames and lines on a terminal."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd


def plain_table() -> Table:
    """A table without lines."""
    return Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))


def print_frame(
    console: Console, frame: pd.DataFrame, hide: Collection[str] = (), narrow: int = 0
) -> None:
    """Prints a frame; numbers are aligned right.

    Args:
        hide: columns that give way where the terminal has fewer columns than ``narrow``.
    """
    from pandas.api.types import is_numeric_dtype

    table = plain_table()
    shown = [name for name in frame.columns if console.width >= narrow or name not in hide]
    for number, name in enumerate(shown):
        right = is_numeric_dtype(frame[name].dtype)
        table.add_column(
            str(name),
            justify="right" if right else "left",
            no_wrap=right or number == 0,
            overflow="fold",
        )
    for row in frame[shown].itertuples(index=False):
        table.add_row(*("" if value is None else escape(str(value)) for value in row))
    console.print(table)


def print_line(console: Console, text: str) -> None:
    """Prints markup on one line that the terminal may wrap, so that it can be copied."""
    console.print(text, highlight=False, soft_wrap=True)


def format_seconds(seconds: float) -> str:
    """A duration in words: ``40 s``, ``3 min``, ``2 h 10 min``, ``5 days``."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours = minutes // 60
    if hours < 72:
        return f"{hours} h {minutes % 60} min"
    return f"{round(hours / 24):,} days"
