"""Columns of means and intervals: how they are computed, written in tables, and drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from compatbench.pages import markdown
from compatbench.pages.markdown import NOTHING, signed
from compatbench.results.bootstrap import Interval
from compatbench.results.measures import Mean, Measure, Standing, mean_over_seeds
from compatbench.studies.study_report import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def mean_columns(name: str, mean: Mean | None) -> Row:
    """A mean as the columns ``name`` and ``name_std``."""
    return {name: mean and mean.value, f"{name}_std": mean and mean.std}


def seed_means(fits: pd.DataFrame, column: str, *draws: str) -> Row:
    """A figure of fits, over tasks and then over seeds (and further draws), as ``mean_columns``."""
    table = fits.pivot(index=["seed", *draws], columns="task", values=column)
    return mean_columns(column, mean_over_seeds(table.to_numpy().tolist()))


def task_means(standing: Standing, measure: Measure) -> pd.Series:
    """Means over seeds of a complete method, by task."""
    means = {task: standing.mean(measure, task) for task in standing.tasks}
    return pd.Series({task: mean.value for task, mean in means.items() if mean is not None})


def interval_columns(name: str, interval: Interval | None) -> Row:
    """An interval as the columns ``name``, ``name_low`` and ``name_high``."""
    if interval is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    low, high = (interval.low, interval.high) if interval.bounded else (None, None)
    return {name: interval.value, f"{name}_low": low, f"{name}_high": high}


def decimals(value: float | None, digits: int, sign: str = "-") -> str:
    """A number, never ``-0.00``; ``sign="+"`` gives positive numbers theirs, too."""
    return NOTHING if value is None else f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def share(value: float | None) -> str:
    """A share in percent: ``31 %``."""
    return NOTHING if value is None else f"{100 * value:.0f} %"


def spread(row: Row, name: str) -> str:
    """The columns of ``mean_columns``: ``44.9 ± 0.4``."""
    value = row[name]
    return markdown.spread(None if value is None else Mean(value, row[f"{name}_std"]))


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


def correlation(value: float) -> str:
    """A coefficient: ``+0.52``."""
    return f"{value:+.2f}"


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
