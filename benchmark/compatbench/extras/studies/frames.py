"""What a study gives: frames of figures, and how they are computed, written and drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from compatbench.results.estimate import Interval
from compatbench.results.standing import Mean, MeasureName, Standing, dataset_means, mean_over_seeds
from compatbench.tables import markdown
from compatbench.tables.figures.svg import save_svg, svg_style
from compatbench.tables.numbers import NOTHING, signed
from compatbench.tables.table import spread as cell_spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]  # of a frame; what is missing is None


@dataclass(frozen=True)
class TextTable:
    """A table with a line above it and notes below; cells are plain text.

    Attributes:
        head: Markdown that has no markup but code.
        left: columns of text; all others hold numbers and are aligned right.
        markup: column -> how its cells are written in Markdown; the others are escaped.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    head: str = ""
    notes: Sequence[str] = ()
    left: Sequence[int] = (0,)
    markup: Mapping[int, Callable[[str], str]] = field(default_factory=dict)

    def markdown(self) -> str:
        """The table as a part of a page."""
        rows = [
            [self.markup.get(i, _escape)(cell) for i, cell in enumerate(row)] for row in self.rows
        ]
        lines = [self.head, ""] if self.head else []
        lines += markdown.table(self.header, rows, self.left)
        if self.notes:
            lines += ["", *[f"* {_escape(note)}" for note in self.notes]]
        return "\n".join(lines)


def _escape(text: str) -> str:
    return markdown.escape(text, longest=400)


class StudyReport(ABC):
    """Base class of what the studies give."""

    @property
    def rows(self) -> pd.DataFrame:
        """The main figures: the first frame of the report."""
        return next(value for value in vars(self).values() if isinstance(value, pd.DataFrame))

    @abstractmethod
    def tables(self) -> list[TextTable]:
        """What readers see."""

    def markdown(self) -> str:
        """The tables as a part of a page."""
        return "\n\n".join(table.markdown() for table in self.tables())

    def draw(self) -> Figure | None:
        """The figure, inside ``svg_style``; None if there is nothing to draw."""
        return None

    def save_figure(self, path: Path) -> bool:
        """Writes the figure as SVG; False if there is none."""
        with svg_style():
            if figure := self.draw():
                save_svg(figure, path)
        return figure is not None


def records(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame as dictionaries; what is missing is None."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def mean_columns(name: str, mean: Mean | None) -> Row:
    """A mean as the columns ``name`` and ``name_std``."""
    return {name: mean and mean.value, f"{name}_std": mean and mean.std}


def seed_means(fits: pd.DataFrame, column: str, *draws: str) -> Row:
    """A figure of fits, over tasks and then over seeds (and further draws), as ``mean_columns``."""
    table = fits.pivot(index=["seed", *draws], columns="task", values=column)
    return mean_columns(column, mean_over_seeds(table.to_numpy().tolist()))


def task_means(standing: Standing, measure: MeasureName) -> pd.Series:
    """Means over seeds of a complete method, by task."""
    return pd.Series(dataset_means(standing, measure))


def interval_columns(name: str, interval: Interval | None) -> Row:
    """An interval as the columns ``name``, ``name_low`` and ``name_high``."""
    low = high = None
    if interval is not None and interval.bounded:
        low, high = interval.low, interval.high
    return {name: interval and interval.value, f"{name}_low": low, f"{name}_high": high}


def decimals(value: float | None, digits: int, sign: str = "-") -> str:
    """A number, never ``-0.00``; ``sign="+"`` gives positive numbers theirs, too."""
    return NOTHING if value is None else f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def spread(row: Row, name: str) -> str:
    """The columns of ``mean_columns``: ``44.9 ± 0.4``."""
    value = row[name]
    return cell_spread(None if value is None else Mean(value, row[f"{name}_std"])).text


def with_interval(row: Row, name: str, show: Callable[[float], str] = signed) -> str:
    """The columns of ``interval_columns``: ``+1.2 (-0.3 to +2.5)``."""
    if row[name] is None:
        return NOTHING
    bounds = interval_text(row, name, show)
    return show(row[name]) + ("" if bounds == NOTHING else f" ({bounds})")


def interval_text(row: Row, name: str, show: Callable[[float], str]) -> str:
    """The bounds alone: ``-0.3 to +2.5``."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return NOTHING if low is None else f"{show(low)} to {show(high)}"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plot_means(axes: Axes, x: Sequence, rows: Sequence[Row], column: str, **style: Any) -> None:
    """A line of the means of ``mean_columns``, with their standard deviations."""
    values = [row[column] for row in rows]
    spreads = [row[f"{column}_std"] or 0.0 for row in rows]
    axes.errorbar(x, values, spreads, capsize=2, **style)


def legend_above(figure: Figure, axes: Axes, columns: int) -> None:
    """One legend above all panels; of marks with one label, the last is shown."""
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns)


def name_layers(axes: Axes, count: int) -> None:
    """Ticks: ``in``, the blocks by number, as many as have room, and ``out``."""
    step = 1 if count <= 9 else 2 if count <= 16 else 4
    inner = [i for i in range(1, count - 1) if i % step == 0]
    axes.set_xticks([0, *inner, count - 1], ["in", *[str(i) for i in inner], "out"])
