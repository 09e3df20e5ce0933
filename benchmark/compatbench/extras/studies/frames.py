"""What a study gives: frames of figures, and how they are computed, written and drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from compatbench.files.atomic import write_atomic
from compatbench.results.estimate import (
    SEED,
    Array,
    Interval,
    draw_resamples,
    estimate,
    percentile_interval,
)
from compatbench.results.standing import Mean, MeasureName, Standing, dataset_means, mean_over_seeds
from compatbench.tables.figures.kinds import FigureKind, read_kinds
from compatbench.tables.figures.render import render_svg_figure, with_data
from compatbench.tables.figures.spec_parts import Shown, Spec
from compatbench.tables.markdown import render_table
from compatbench.tables.numbers import NOTHING
from compatbench.tables.table import Table
from compatbench.tables.table import spread as cell_spread

Row = dict[str, Any]  # of a frame; what is missing is None


class StudyReport(ABC):
    """Base class of what the studies give.

    Attributes:
        figure: the kind of its figure, if it has one, in the template ``figures``.
    """

    figure: ClassVar[str] = ""
    figures: ClassVar[Path] = Path(__file__).with_name("figures.yaml.jinja")

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

    def shown(self) -> Shown | None:
        """The data of the figure; None if there is nothing to draw."""
        return None

    @property
    def figure_kind(self) -> FigureKind:
        """How the figure is drawn."""
        return read_kinds(self.figures)[self.figure]

    def picture(self) -> Spec | None:
        """The figure as Vega-Lite; None if there is nothing to draw."""
        return (shown := self.shown()) and with_data(self.figure_kind, shown)

    def svg(self) -> bytes | None:
        """The figure as SVG; None if there is nothing to draw."""
        return (shown := self.shown()) and render_svg_figure(self.figure_kind, shown)

    def save_figure(self, path: Path) -> bool:
        """Writes the figure as SVG; False if there is none."""
        if (svg := self.svg()) is not None:
            write_atomic(path, svg)
        return svg is not None


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


def decimals(value: float | None, digits: int, sign: str = "-") -> str:
    """A number, never ``-0.00``; ``sign="+"`` gives positive numbers theirs, too."""
    return NOTHING if value is None else f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def spread(row: Row, name: str) -> str:
    """The columns of ``mean_columns``: ``44.9 ± 0.4``."""
    value = row[name]
    return cell_spread(None if value is None else Mean(value, row[f"{name}_std"])).text


def mean_points(rows: Iterable[Row], column: str, series: str) -> list[Row]:
    """The means of ``mean_columns`` as records of a chart: ``x`` is the place among the rows."""
    points = []
    for place, row in enumerate(rows):
        if (mean := row[column]) is not None:
            std = row[f"{column}_std"] or 0.0
            points.append({"series": series, "x": place, "y": mean})
            points[-1] |= {"low": mean - std, "high": mean + std}
    return points


def layer_axis(count: int) -> Row:
    """The ``names`` of places along an axis, and ``ticks`` where there is one.

    They are ``in``, the blocks by number, as many as have room, and ``out``.
    """
    step = 1 if count <= 9 else 2 if count <= 16 else 4
    names = ["in", *(str(i) if i % step == 0 else "" for i in range(1, count - 1)), "out"]
    return {"names": names, "ticks": [place for place, name in enumerate(names) if name]}


def spearman_interval(x: ArrayLike, y: ArrayLike) -> Interval | None:
    """Spearman's rank correlation of pairs ``[units]``, with an interval over the units.

    None if it is not defined: fewer than three pairs, or one side is constant.
    """
    pairs = {"x": np.asarray(x), "y": np.asarray(y)}
    return estimate(pairs, statistic=_spearman) if len(pairs["x"]) > 2 else None


def _spearman(x: Array, y: Array) -> Array:
    """Pearson's correlation of the ranks of both sides; NaN where one is constant."""
    from scipy.stats import rankdata

    x, y = rankdata(x, axis=-1), rankdata(y, axis=-1)
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    norms = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    products = (x * y).sum(axis=-1)
    return np.divide(products, norms, out=np.full(norms.shape, np.nan), where=norms > 0)


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
