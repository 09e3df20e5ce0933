"""Does an upgrade cost more on classes that a module never saw, and does its depth matter?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from compatbench.data.cards import SuiteCard
from compatbench.extras.studies import frames
from compatbench.extras.studies.class_tables import measure_page
from compatbench.extras.studies.frames import Row, StudyReport, records
from compatbench.extras.studies.intervals import crossed_interval
from compatbench.extras.studies.study import read_suite
from compatbench.results.estimate import Array, Interval, average_units
from compatbench.results.four_ways import CLASSES, MODELS, FourWays, require_other_classes
from compatbench.tables.figures.charts import axis, chart, colour, layer
from compatbench.tables.figures.colours import BLUE, GREY, INK, ORANGE
from compatbench.tables.figures.spec_parts import Spec
from compatbench.tables.suite_page import read_suite_page
from compatbench.tables.table import Table, code, plain_table, sentence, text

NAMES = ("shallow", "deep", "zero-shot")
LOSSES = ("own_lost", "other_lost", "forgotten")
LEAST = 2  # methods of a kind, of which something can be said


@dataclass(frozen=True)
class ClassesReport(StudyReport):
    """What an upgrade costs on own and on other classes."""

    kinds: pd.DataFrame  # a row per upgrade and depth, with what is lost, in points
    methods: pd.DataFrame  # a row per upgrade and method that applies to other classes, in percent
    suite: str

    def tables(self) -> list[Table]:
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
            head = sentence("Suite ", code(self.suite), ", ", text(str(upgrade)), ":")
            tables.append(plain_table(header, rows, (0, 5), head))
        return tables

    def markdown(self) -> str:
        """The table as a part of a page."""
        if self.kinds.empty:
            return f"Suite `{self.suite}` has not been run."
        return super().markdown()

    pictured = "Accuracy on own against other classes, from source to target"

    def picture(self) -> Spec | None:
        """Accuracy on own against other classes, a line for each method from source to target."""
        if self.methods.empty:
            return None
        rows = [
            {
                "panel": row["upgrade"].partition(" → ")[2],
                "series": "zero-shot" if row["depth"] == "none" else row["depth"],
                **{f"{c}_{model}": row[f"{c}_{model}"] for c in CLASSES for model in MODELS},
            }
            for row in records(self.methods)
        ]
        values = [row[f"{c}_{model}"] for row in rows for c in CLASSES for model in MODELS]
        ends = [{"x": value, "y": value} for value in (min(values), max(values))]
        x, y = (axis(f"{c}_source", f"{c} classes, accuracy in %") for c in CLASSES)
        place = {"x": x, "y": y, "color": colour(NAMES, [ORANGE, BLUE, INK])}
        line = {**place, "x2": {"field": "own_target"}, "y2": {"field": "other_target"}}
        end = {**place, "x": {**x, "field": "own_target"}, "y": {**y, "field": "other_target"}}
        equal = {"x": {**x, "field": "x"}, "y": {**y, "field": "y"}}
        return {
            "data": {"values": rows},
            "facet": {"column": {"field": "panel", "sort": None, "title": None}},
            "spec": chart(
                [
                    layer("line", equal, ends, color=GREY, strokeWidth=0.6),
                    layer("rule", line),
                    layer("point", place, size=14),
                    layer("circle", end, size=24, opacity=1),
                ],
                *(230, 230),
            ),
        }


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
