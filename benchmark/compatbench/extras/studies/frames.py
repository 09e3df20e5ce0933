"""What a study gives: frames of figures, and how they are computed, written and drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import altair as alt
import pandas as pd

from compatbench.files.atomic import write_atomic
from compatbench.results.estimate import (
    SEED,
    Array,
    Interval,
    draw_resamples,
    percentile_interval,
)
from compatbench.results.standing import MeasureName, Standing, dataset_means
from compatbench.tables.figures.render import render_chart
from compatbench.tables.markdown import render_table
from compatbench.tables.numbers import NOTHING
from compatbench.tables.table import Table

Row = dict[str, Any]  # of a frame; what is missing is None


class StudyReport(ABC):
    """Base class of what the studies give.

    Attributes:
        alt_text: what its figure shows, if it has one, for readers who cannot see it.
    """

    alt_text: ClassVar[str] = ""

    @property
    def rows(self) -> pd.DataFrame:
        """The main figures: the first frame of the report."""
        return next(value for value in vars(self).values() if isinstance(value, pd.DataFrame))

    def data(self) -> Any:
        """What JSON has of it: the main figures, or the whole report."""
        return self.rows

    @abstractmethod
    def tables(self) -> list[Table]:
        """What readers see."""

    def markdown(self) -> str:
        """The tables as a part of a page."""
        return "\n\n".join(render_table(table, longest=400) for table in self.tables())

    def chart(self) -> alt.FacetChart | None:
        """Return the figure as an Altair chart; None if there is nothing to draw."""
        return None

    def svg(self) -> bytes | None:
        """Return the figure as SVG; None if there is nothing to draw."""
        chart = self.chart()
        return None if chart is None else render_chart(chart, self.alt_text)

    def save_figure(self, path: Path) -> bool:
        """Write the figure as SVG. Return False if there is none."""
        svg = self.svg()
        if svg is not None:
            write_atomic(path, svg)
        return svg is not None


def task_means(standing: Standing, measure: MeasureName) -> pd.Series:
    """Means over seeds of a complete method, by task."""
    return pd.Series(dataset_means(standing, measure))


def decimals(value: float | None, digits: int, sign: str = "-") -> str:
    """A number, never ``-0.00``; ``sign="+"`` gives positive numbers theirs, too."""
    return NOTHING if value is None else f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def layer_axis(count: int) -> Row:
    """The ``names`` of places along an axis, and ``ticks`` where there is one.

    They are ``in``, the blocks by number, as many as have room, and ``out``.
    """
    step = 1 if count <= 9 else 2 if count <= 16 else 4
    names = ["in", *(str(i) if i % step == 0 else "" for i in range(1, count - 1)), "out"]
    return {"names": names, "ticks": [place for place, name in enumerate(names) if name]}


def crossed_interval(tables: Sequence[Array]) -> Interval:
    """The mean of a table, or its difference from that of another; rows and columns are samples.

    Columns (datasets) are the same in all tables, each ``[rows, columns]``, and are drawn
    together; the rows (methods) of each table are drawn by themselves. So what differs from
    method to method counts as chance, too, not only what differs from dataset to dataset.
    """

    def difference(first: Array, *others: Array) -> float:
        return float(first.mean() - sum(other.mean() for other in others))

    value, columns = difference(*tables), tables[0].shape[1]
    on_rows = [draw_resamples(len(table), seed=SEED + i) for i, table in enumerate(tables, 1)]
    resampled = []
    for i, drawn in enumerate(draw_resamples(columns)):
        parts = [table[rows[i]][:, drawn] for table, rows in zip(tables, on_rows, strict=True)]
        resampled.append(difference(*parts))
    return percentile_interval(value, resampled, columns)
