"""What a study gives: a frame of figures, tables for terminal and page, and a drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from compatbench.pages import markdown
from compatbench.pages.markdown import NOTHING, signed
from compatbench.results.bootstrap import Array, Interval
from compatbench.results.measures import Mean, Measure, Standing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TextTable:
    """A table with a line above it and notes below; cells are plain text.

    Attributes:
        head: Markdown that has no markup but code; empty is none.
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
        rows = [[self._cell(i, cell) for i, cell in enumerate(row)] for row in self.rows]
        lines = [self.head, ""] if self.head else []
        lines += markdown.table(self.header, rows, self.left)
        if self.notes:
            lines += ["", *[f"* {markdown.escape(note, longest=400)}" for note in self.notes]]
        return "\n".join(lines)

    def _cell(self, column: int, cell: str) -> str:
        return self.markup.get(column, lambda text: markdown.escape(text, longest=400))(cell)


class StudyReport:
    """Base class of what the studies give."""

    @property
    def rows(self) -> pd.DataFrame:
        """The main figures: the first frame of the report."""
        return next(value for value in vars(self).values() if isinstance(value, pd.DataFrame))

    def tables(self) -> list[TextTable]:
        """What readers see."""
        raise NotImplementedError

    def draw(self) -> Figure | None:
        """The figure; None if there is nothing to draw."""
        return None

    def markdown(self) -> str:
        """The tables as a part of a page."""
        return "\n\n".join(table.markdown() for table in self.tables())


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as dictionaries; what is missing is None."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def as_plain(value: Any) -> Any:
    """Frames, records and what they hold as lists and dictionaries, for JSON."""
    if isinstance(value, pd.DataFrame):
        return records(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: as_plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {name: as_plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(one) for one in value]
    return value


def task_means(standing: Standing, measure: Measure, tasks: Iterable[str]) -> Array:
    """Means over seeds of a complete method, ``[tasks]``."""
    means = [standing.mean(measure, task) for task in tasks]
    return np.array([mean.value for mean in means if mean is not None])


def mean_columns(name: str, mean: Mean | None) -> dict[str, float | None]:
    """A mean as the columns ``name`` and ``name_std``."""
    return {name: mean and mean.value, f"{name}_std": mean and mean.std}


def interval_columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    """An interval as the columns ``name``, ``name_low`` and ``name_high``."""
    if interval is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    low, high = (interval.low, interval.high) if interval.bounded else (None, None)
    return {name: interval.value, f"{name}_low": low, f"{name}_high": high}


def decimals(value: float | None, digits: int, sign: str = "-") -> str:
    """A number, never ``-0.00``.

    Args:
        sign: ``+`` gives positive numbers their sign, too.
    """
    return NOTHING if value is None else f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def share(value: float | None) -> str:
    """A share in percent: ``31 %``."""
    return NOTHING if value is None else f"{100 * value:.0f} %"


def spread(row: Mapping[str, Any], name: str) -> str:
    """The columns of ``mean_columns``: ``44.9 ± 0.4``."""
    value = row[name]
    return markdown.spread(None if value is None else Mean(value, row[f"{name}_std"]))


def with_interval(row: Mapping[str, Any], name: str, show: Callable[[float], str] = signed) -> str:
    """The columns of ``interval_columns``: ``+1.2 (-0.3 to +2.5)``."""
    value, low = row[name], row[f"{name}_low"]
    if value is None:
        return NOTHING
    return show(value) + ("" if low is None else f" ({interval_text(row, name, show)})")


def interval_text(row: Mapping[str, Any], name: str, show: Callable[[float], str]) -> str:
    """The bounds alone: ``-0.3 to +2.5``."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return NOTHING if low is None else f"{show(low)} to {show(high)}"


def correlation(value: float) -> str:
    """A coefficient: ``+0.52``."""
    return f"{value:+.2f}"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plot_means(
    axes: Axes, x: Sequence, rows: Sequence[Mapping[str, Any]], column: str, **style: Any
) -> None:
    """A line of the means of ``mean_columns``, with their standard deviations."""
    values = [row[column] for row in rows]
    spreads = [row[f"{column}_std"] or 0.0 for row in rows]
    axes.errorbar(x, values, spreads, capsize=2, **style)


def name_layers(axes: Axes, count: int) -> None:
    """Ticks: ``in``, the blocks by number, as many as have room, and ``out``."""
    step = 1 if count <= 9 else 2 if count <= 16 else 4
    inner = [i for i in range(1, count - 1) if i % step == 0]
    axes.set_xticks([0, *inner, count - 1], ["in", *[str(i) for i in inner], "out"])
