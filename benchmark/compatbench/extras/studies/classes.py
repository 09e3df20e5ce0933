"""Does an upgrade cost more on classes that a module never saw, and does its depth matter?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.extras.studies.class_pages import measure_page
from compatbench.extras.studies.frames import Row, StudyReport, crossed_interval
from compatbench.results.estimate import FEWEST_UNITS, Array, average_units, interval_columns
from compatbench.results.four_ways import CLASSES, MODELS, FourWays, require_other_classes
from compatbench.tables.figures.spec_parts import Shown
from compatbench.tables.numbers import with_interval
from compatbench.tables.suite_page import read_suite_page
from compatbench.tables.table import Table, code, plain_table, records, sentence, text

LOSSES = ("own_lost", "other_lost", "forgotten")
LEAST = 2  # methods of a kind, of which something can be said
_ACCURACIES = [f"{classes}_{model}" for classes in CLASSES for model in MODELS]


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
                    row["depth"],
                    row["apply"],
                    *(with_interval(row, n) for n in LOSSES),
                    row["verdict"],
                ]
                for row in records(of_upgrade)
            ]
            head = sentence("Suite ", code(self.suite), ", ", text(str(upgrade)), ":")
            tables.append(plain_table(header, rows, (0, 5), head))
        return tables

    def markdown(self) -> str:
        """The table as a part of a page."""
        nothing = f"Suite `{self.suite}` has not been run."
        return nothing if self.kinds.empty else super().markdown()

    figure = "own_and_other"

    def shown(self) -> Shown | None:
        """Accuracy on own against other classes, a line for each method from source to target."""
        if self.methods.empty:
            return None
        rows = self.methods.assign(
            panel=self.methods["upgrade"].str.partition(" → ")[2],
            series=self.methods["depth"].replace("none", "zero-shot"),
        )
        values = self.methods[_ACCURACIES].to_numpy(float)
        names = ["shallow", "deep", "zero-shot"]
        signals = {"least": values.min(), "most": values.max(), "series": names}
        return Shown(records(rows[["panel", "series", *_ACCURACIES]]), signals)


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
    card = suite_cards.read(suite)
    require_other_classes(card.name, card.protocol)
    page = read_suite_page(card, Path(out))
    tasks, kinds, methods = len(page.expected.tasks), list[Row](), list[Row]()
    for upgrade in page.expected.upgrades if page.results.methods else ():
        measured = measure_page(page, upgrade)
        title = page.path_title(upgrade)
        complete = [ways for ways in measured if ways.state == "complete"]
        for ways in complete:
            row: Row = {"upgrade": title, "method": ways.info.name, "depth": ways.info.depth}
            methods.append(row | {name: float(ways.frame[name].mean()) for name in _ACCURACIES})
        learning = [ways for ways in measured if ways.info.learns]
        by_depth: dict[str, list[FourWays]] = {"shallow": [], "deep": []}
        for depth, able in by_depth.items():
            able += [ways for ways in complete if ways.info.depth == depth and ways.info.learns]
            every = sum(ways.info.depth == depth for ways in learning)
            about = {"upgrade": title, "depth": depth, "apply": f"{len(able)} of {every}"}
            kinds.append(about | _losses([able], tasks, "more on others", "less on others"))
        if min(map(len, by_depth.values())) >= LEAST:
            both = by_depth["deep"], by_depth["shallow"]
            about = {"upgrade": title, "depth": "deep − shallow", "apply": ""}
            kinds.append(about | _losses(both, tasks, "deep forget more", "shallow forget more"))
    return ClassesReport(pd.DataFrame(kinds), pd.DataFrame(methods), card.name)


def _losses(groups: Sequence[Sequence[FourWays]], tasks: int, more: str, less: str) -> Row:
    """What methods lose, or how much more those of one group than those of another; in points.

    The verdict says in words what the interval of what is forgotten says, if modules were trained
    on enough tasks: those of one task share their module, on however many others it is tested.
    """
    row, verdict = Row(), ""
    if len(groups[0]) < LEAST:
        for name in LOSSES:
            row |= interval_columns(name, None)
        return row | {"verdict": f"{LEAST} methods are needed"}
    tables = [_lost(methods) for methods in groups]
    for name in LOSSES:
        interval = crossed_interval([table[name] for table in tables])
        row |= interval_columns(name, interval)
        sign = interval.sign if tasks >= FEWEST_UNITS else 0
        verdict = {1: more, -1: less, 0: "not decided"}[sign]
    return row | {"verdict": verdict}  # of the last, what is forgotten


def _lost(methods: Sequence[FourWays]) -> dict[str, Array]:
    """What is lost of the gain on own classes and on others, ``[methods, pairs]`` in points."""
    by_pair = [average_units(ways.frame, "pair") for ways in methods]
    known, other = (
        np.array([means[f"{c}_source_gain"] - means[f"{c}_target_gain"] for means in by_pair])
        for c in CLASSES
    )
    return dict(zip(LOSSES, (known, other, other - known), strict=True))
