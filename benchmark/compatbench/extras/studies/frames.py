"""Reports of studies: their frames, tables and figures, and statistics that they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import altair as alt
import numpy as np
import pandas as pd

from compatbench.files.atomic import write_atomic
from compatbench.messages import conjugate
from compatbench.results.estimate import (
    SEED,
    Array,
    Interval,
    draw_resamples,
    percentile_interval,
)
from compatbench.tables.figures.render import compile_chart, render_chart
from compatbench.tables.markdown import render_table
from compatbench.tables.numbers import NOTHING, signed
from compatbench.tables.table import Table

Row = dict[str, Any]  # of a frame; what is missing is None
# Points: a module whose mean gain over zero-shot is lower has collapsed. A mean over methods is
# decided by such modules, so they are named wherever they take part.
COLLAPSE = -10.0


class StudyReport(ABC):
    """Base class of the reports of studies.

    Attributes:
        alt_text: what its figure shows, if it has one, for readers who cannot see it.
    """

    alt_text: ClassVar[str] = ""

    @property
    def rows(self) -> pd.DataFrame:
        """Return the main figures: the first frame of the report."""
        return next(value for value in vars(self).values() if isinstance(value, pd.DataFrame))

    def data(self) -> Any:
        """Return what JSON contains: the main figures, or the whole report."""
        return self.rows

    @abstractmethod
    def tables(self) -> list[Table]:
        """Return the tables of the report."""

    def markdown(self) -> str:
        """Return the tables as a part of a page."""
        return "\n\n".join(render_table(table, longest=400) for table in self.tables())

    def chart(self) -> alt.FacetChart | None:
        """Return the figure as an Altair chart; None if there is nothing to draw."""
        return None

    def svg(self) -> bytes | None:
        """Return the figure as SVG; None if there is nothing to draw."""
        chart = self.chart()
        return None if chart is None else render_chart(compile_chart(chart), self.alt_text)

    def save_figure(self, path: Path) -> bool:
        """Write the figure as SVG. Return False if there is none."""
        svg = self.svg()
        if svg is not None:
            write_atomic(path, svg)
        return svg is not None


def decimals(value: float | None, digits: int, sign: str = "-") -> str:
    """Return a number, never ``-0.00``; with ``sign="+"`` positive numbers have a sign, too."""
    return NOTHING if value is None else f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def layer_axis(count: int) -> Row:
    """Return the ``names`` of places along an axis, and ``ticks`` where there is one.

    They are ``in``, the blocks by number, as many as have room, and ``out``.
    """
    step = 4
    if count <= 9:
        step = 1
    elif count <= 16:
        step = 2
    names = ["in"]
    for block in range(1, count - 1):
        names.append(str(block) if block % step == 0 else "")
    names.append("out")
    return {"names": names, "ticks": [place for place, name in enumerate(names) if name]}


def median_of_rows(means: Array) -> Array:
    """Return the median over the last axis."""
    return np.median(means, axis=-1)


def share_below_zero(means: Array) -> Array:
    """Return the share of values below 0 over the last axis."""
    return (means < 0).mean(axis=-1)


def crossed_interval(
    tables: Sequence[Array], statistic: Callable[[Array], Array] = median_of_rows
) -> Interval:
    """Return a statistic of a table, or its difference from that of another, with its interval.

    The statistic is over rows (methods), of their means over columns (datasets). Both are samples:
    columns are the same in all tables, each ``[rows, columns]``, and are drawn together; the rows
    of each table are drawn separately. So what differs from method to method counts as chance,
    too, not only what differs from dataset to dataset. The fewest of them are the units.
    """
    columns = tables[0].shape[1]
    drawn_columns = draw_resamples(columns)
    values = []
    resampled = []
    for number, table in enumerate(tables, start=1):
        drawn_rows = draw_resamples(len(table), seed=SEED + number)
        drawn = table[drawn_rows[:, :, None], drawn_columns[:, None, :]]
        values.append(float(statistic(table.mean(axis=1))))
        resampled.append(statistic(drawn.mean(axis=2)))
    value = values[0] - sum(values[1:])
    differences = resampled[0] - sum(resampled[1:])
    units = min(columns, *map(len, tables))
    return percentile_interval(value, differences, units)


def find_collapsed(gains: pd.Series) -> pd.Series:
    """Return the modules whose mean gain over zero-shot is below ``COLLAPSE``, the worst first."""
    return gains[gains < COLLAPSE].sort_values(kind="stable")


def show_collapsed(gains: pd.Series) -> str:
    """Name the collapsed modules with their gains; an empty text if there is none."""
    collapsed = find_collapsed(gains)
    if collapsed.empty:
        return ""
    named = [f"{title} {signed(gain)}" for title, gain in collapsed.items()]
    limit = f"more than {-COLLAPSE:g} points below zero-shot"
    return f"{len(named)} {conjugate(len(named), 'collapse')}, {limit}: {', '.join(named)}"
