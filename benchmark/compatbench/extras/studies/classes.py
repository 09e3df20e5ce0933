"""Does an upgrade cost more on classes that a module never saw, and does its depth matter?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from compatbench.data.cards import SuiteCard
from compatbench.extras.studies import frames
from compatbench.extras.studies.class_tables import measure_page
from compatbench.extras.studies.frames import Row, StudyReport, TextTable, records
from compatbench.extras.studies.intervals import crossed_interval
from compatbench.extras.studies.study import read_suite
from compatbench.results.estimate import Array, Interval, average_units
from compatbench.results.four_ways import CLASSES, MODELS, FourWays, require_other_classes
from compatbench.tables.figures.colours import BLUE, GREY, INK, ORANGE
from compatbench.tables.suite_page import read_suite_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"shallow": ORANGE, "deep": BLUE, "none": INK}
LOSSES = ("own_lost", "other_lost", "forgotten")
LEAST = 2  # methods of a kind, of which something can be said


@dataclass(frozen=True)
class ClassesReport(StudyReport):
    """What an upgrade costs on own and on other classes."""

    kinds: pd.DataFrame  # a row per upgrade and depth, with what is lost, in points
    methods: pd.DataFrame  # a row per upgrade and method that applies to other classes, in percent
    suite: str

    def tables(self) -> list[TextTable]:
        """What each kind of method loses of its gain, and whether it is more on other classes."""
        header = ["Depth", "Apply", "Lost on own", "Lost on others", "Forgotten", "More?"]
        tables = []
        for upgrade, of_upgrade in self.kinds.groupby("upgrade", sort=False):
            rows = [
                [
                    one["depth"],
                    one["apply"],
                    *(frames.with_interval(one, name) for name in LOSSES),
                    one["verdict"],
                ]
                for one in records(of_upgrade)
            ]
            head = f"Suite `{self.suite}`, {upgrade}:"
            tables.append(TextTable(header, rows, head, left=(0, 5)))
        return tables

    def markdown(self) -> str:
        """The table as a part of a page."""
        if self.kinds.empty:
            return f"Suite `{self.suite}` has not been run."
        return super().markdown()

    def draw(self) -> Figure | None:
        """Accuracy on own against other classes, an arrow for each method from source to target."""
        if self.methods.empty:
            return None
        upgrades = list(dict.fromkeys(self.methods["upgrade"]))
        figure = frames.new_figure(3.6 * len(upgrades), 3.9)
        panels = figure.subplots(1, len(upgrades), sharex=True, sharey=True, squeeze=False)[0]
        for axes, upgrade in zip(panels, upgrades, strict=True):
            _draw_arrows(axes, records(self.methods.query("upgrade == @upgrade")))
            axes.set_title(upgrade.partition(" → ")[2], fontsize=9)
            axes.set_xlabel("own classes, accuracy in %")
        panels[0].set_ylabel("other classes, accuracy in %")
        frames.legend_above(figure, panels[0], columns=3)
        return figure


def _draw_arrows(axes: Axes, rows: Sequence[Row]) -> None:
    for row in sorted(rows, key=lambda row: row["depth"] == "none"):
        start, end = ((row[f"own_{model}"], row[f"other_{model}"]) for model in MODELS)
        colour = COLOURS[row["depth"]]
        style = dict(arrowstyle="->", color=colour, lw=1.8 if row["depth"] == "none" else 0.9)
        axes.annotate("", end, start, arrowprops=style)
        label = {"none": "zero-shot"}.get(row["depth"], row["depth"])
        axes.plot(*start, "o", color=colour, markersize=3, label=label)
    places = [f"{classes}_{model}" for classes in CLASSES for model in MODELS]
    values = [row[place] for row in rows for place in places]
    low, high = min(values), max(values)
    axes.plot([low, high], [low, high], color=GREY, linewidth=0.6, zorder=0)


def analyze_classes(
    suite: str | SuiteCard = "mini-base-to-new", out: str | Path = "."
) -> ClassesReport:
    """What upgrades cost on the classes that modules were trained on, and on others.

    Args:
        suite: one with a protocol that tests other classes.
        out: the folder of ``results/``.

    Returns:
        A report: ``kinds`` says what shallow and deep methods lose, and whether it is more on other
        classes; intervals are over methods and datasets. ``methods`` has the accuracies. Both are
        empty of a suite that has not been run.

    Raises:
        CompatbenchError: a suite without a protocol.
    """
    card = read_suite(suite)
    require_other_classes(card.name, card.protocol)
    page = read_suite_page(card, Path(out))
    kinds, methods = list[Row](), list[Row]()
    for upgrade in page.expected.upgrades if page.results.methods else ():
        found = measure_page(page, upgrade, max(page.expected.shots))
        title = page.path_title(upgrade)
        methods += [_accuracies(one, title) for one in found if one.state == "complete"]
        both = dict[str, Sequence[FourWays]]()
        for depth in ("shallow", "deep"):
            same = [one for one in found if one.info.depth == depth and one.info.learns]
            able = both[depth] = [one for one in same if one.state == "complete"]
            about: Row = {"upgrade": title, "depth": depth, "apply": f"{len(able)} of {len(same)}"}
            kinds.append(about | _losses(able))
        if min(map(len, both.values())) >= LEAST:
            kinds.append(_compare(title, **both))
    return ClassesReport(pd.DataFrame(kinds), pd.DataFrame(methods), card.name)


def _accuracies(one: FourWays, upgrade: str) -> Row:
    row: Row = {"upgrade": upgrade, "method": one.info.name, "depth": one.info.depth}
    for classes in CLASSES:
        for model in MODELS:
            row[f"{classes}_{model}"] = float(one.frame[f"{classes}_{model}"].mean())
    return row


def _lost(methods: Sequence[FourWays]) -> dict[str, Array]:
    """What is lost of the gain on own classes and on others, ``[methods, pairs]`` in points."""
    by_pair = [average_units(one.frame, "pair") for one in methods]
    lost = {
        f"{classes}_lost": np.array(
            [(one[f"{classes}_source_gain"] - one[f"{classes}_target_gain"]) for one in by_pair]
        )
        for classes in CLASSES
    }
    return lost | {"forgotten": lost["other_lost"] - lost["own_lost"]}


def _losses(methods: Sequence[FourWays]) -> Row:
    if len(methods) < LEAST:
        nothing: Row = {"verdict": f"{LEAST} methods are needed"}
        for name in LOSSES:
            nothing |= frames.interval_columns(name, None)
        return nothing
    found = {
        name: crossed_interval([table], lambda one: float(one.mean()))
        for name, table in _lost(methods).items()
    }
    return _decide(found, "more on others", "less on others")


def _compare(upgrade: str, shallow: Sequence[FourWays], deep: Sequence[FourWays]) -> Row:
    """Deep methods' losses less those of shallow ones."""
    one, other = _lost(deep), _lost(shallow)
    found = {
        name: crossed_interval([one[name], other[name]], lambda a, b: float(a.mean() - b.mean()))
        for name in one
    }
    row: Row = {"upgrade": upgrade, "depth": "deep − shallow", "apply": ""}
    return row | _decide(found, "deep forget more", "shallow forget more")


def _decide(found: Mapping[str, Interval], more: str, less: str) -> Row:
    """The intervals of the losses, and in words what that of what is forgotten says."""
    row = Row()
    for name, interval in found.items():
        row |= frames.interval_columns(name, interval)
    return row | {"verdict": {1: more, -1: less, 0: "not decided"}[found["forgotten"].sign]}
