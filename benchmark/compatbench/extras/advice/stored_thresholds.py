"""Which stored thresholds keep their precision on a new model, by how they are brought along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from compatbench.data.cards import COPIED
from compatbench.extras.advice.price import describe_access
from compatbench.results.estimate import Interval, estimate
from compatbench.results.expected import Upgrade
from compatbench.results.measures.registry import Side
from compatbench.results.method_results import MethodInfo, MethodResults
from compatbench.results.standing import Standing, compute_standing, dataset_means, measure_interval
from compatbench.tables.numbers import NOTHING, bounds, percent
from compatbench.tables.pages.sections import Section
from compatbench.tables.ranking import method_cell
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import Table, code, number, plain_table, text

VERDICTS = {1: "holds", 0: "cannot tell", -1: "does not hold"}


class Survival(NamedTuple):
    """What became of the thresholds of one method by one way, on one side of an upgrade.

    Figures are in percent, means over tasks; None where a row is missing.
    """

    info: MethodInfo
    way: str  # the transfer; empty on the source
    kept: int | None  # thresholds, of a task and a seed each, whose precision is as wanted or more
    of: int
    precision: Interval | None
    f1: Interval | None
    answered: float | None
    over: Interval | None  # precision less the wanted one, in points

    @property
    def verdict(self) -> str:
        """Whether the mean precision over tasks is as wanted, by the whole interval."""
        return NOTHING if self.over is None else VERDICTS[self.over.sign]


def list_survival(page: SuitePage, upgrade: Upgrade) -> Iterator[Survival]:
    """Every method that refuses images: on the source, then on the target by every way."""
    infos = [each.info for each in page.results.methods.values() if each.info.refuses]
    for info in sorted(infos, key=lambda info: (info.name in page.configs, info.name)):
        for transfer in page.results.transfers:
            if (results := page.results.of(transfer).get(info.name)) is None:
                continue
            how = results, page.expected, upgrade, max(page.expected.shots)
            standing = compute_standing(*how)
            if transfer == COPIED:
                yield _measure(results, standing, "source", "")
            yield _measure(results, standing, "target", transfer)


def _measure(results: MethodResults, standing: Standing, side: Side, way: str) -> Survival:
    prefix = "source_" if side == "source" else ""
    precisions, wanted = standing.figures(f"{prefix}precision"), _wanted(results)
    means = dataset_means(standing, f"{prefix}precision")
    kept = answered = over = None
    if means is not None:
        kept = int((precisions >= wanted - 1e-9).sum())
        shares = standing.column(side, "answered")
        answered = float(np.where(np.isnan(shares), 100, shares).mean())
        over = estimate([mean - wanted for mean in means.values()])
    precision, f1 = (measure_interval(standing, f"{prefix}{name}") for name in ("precision", "f1"))
    return Survival(results.info, way, kept, precisions.size, precision, f1, answered, over)


def _wanted(results: MethodResults) -> float:
    """The precision that the thresholds were chosen for, in percent."""
    return 100 * float(results.config["precision"])


def wanted_precisions(page: SuitePage) -> list[float]:
    """Those of a suite's methods that refuse images, each once."""
    return sorted({_wanted(each) for each in page.results.all if each.info.refuses})


def survival_table(page: SuitePage, upgrade: Upgrade) -> Table:
    """A row for each method and way; the first of a method is the old model itself."""
    header = ["Threshold", "Way", "Access", "Kept", "Precision", "95 %", "F1", "95 % of F1"]
    rows = [
        [
            method_cell(row.info),
            code(row.way) if row.way else text("on the old model"),
            text(describe_access(row.way) if row.way else NOTHING),
            number(NOTHING if row.kept is None else f"{row.kept} of {row.of}", row.kept),
            *(
                number(shown)
                for each in (row.precision, row.f1)
                for shown in (percent(each and each.value), bounds(each))
            ),
            *map(number, (percent(row.answered), row.verdict)),
        ]
        for row in list_survival(page, upgrade)
    ]
    return plain_table([*header, "Answered", "Verdict"], rows, left=(0, 1, 2, 9))


THRESHOLDS = Section(
    "leaderboard",
    45,
    "Stored thresholds",
    lambda page: any(each.info.refuses for each in page.results.all),
    str(Path(__file__).parent / "stored_thresholds.md.jinja"),
    {each.__name__: each for each in (survival_table, list_survival, wanted_precisions)},
    on_site=True,
)
