"""The ranking as a frame: what every page shows, and what a notebook is given."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import product
from typing import TYPE_CHECKING, Any

import pandas as pd

from compatbench.data.cards import COPIED
from compatbench.errors import CompatbenchError
from compatbench.messages import count
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.four_ways import four_ways_frame, measure_four_ways, require_other_classes
from compatbench.results.measures import list_measures
from compatbench.results.method_results import MethodResults, SuiteResults
from compatbench.results.ranks import Ranked, exact, rank_upgrades
from compatbench.results.standing import MeasureName

if TYPE_CHECKING:
    from compatbench.engine.cell import Cell

# Columns of a ranking that hold no real number.
_COUNTS = (
    *("rank", "harmed", "parameters", "parameters_low", "module_bytes", "peak_memory"),
    *("cells", "measured", "refused"),
)
_TEXTS = ("method", "worst_task", "reasons", "title", "paper", "depth", "transfer", "state")


@dataclass(frozen=True, repr=False)
class Results:
    """The results of a suite, as frames.

    Means are over the tasks that are held out; ``restrict`` gives those over others.
    """

    suite: SuiteResults
    expected: Expected  # what the suite asks for, so that what is missing is known
    failures: tuple[tuple[Cell, str], ...] = ()  # of the run that returned them, with errors

    def __repr__(self) -> str:
        counts = f"{self.suite.methods_in_words}, {count(len(self.expected.tasks), 'task')}"
        upgrades = ", ".join(map(_show, self.expected.upgrades))
        return f"<Results of '{self.suite.name}': {counts}; {upgrades}>"

    @property
    def frame(self) -> pd.DataFrame:
        """One row per measurement: counts, accuracy and gain in percent and points, and costs."""
        return self.suite.frame

    def restrict(
        self,
        tasks: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        shots: Sequence[int] | None = None,
        methods: Collection[str] | None = None,
        transfers: Collection[str] | None = None,
    ) -> Results:
        """The results of a part of the suite: means are taken over exactly that part.

        Raises:
            CompatbenchError: a value that the suite does not have, and that was not measured.
        """
        for name, column, values in (
            ("tasks", "task", tasks),
            ("seeds", "seed", seeds),
            ("shots", "shots", shots),
        ):
            asked = () if values is None else values
            self._check(name, asked, {*getattr(self.expected, name), *self.frame[column]})
        expected = self.expected.restrict(tasks, seeds, shots)
        return replace(self, suite=self.suite.restrict(methods, transfers), expected=expected)

    def ranked(
        self, upgrade: Upgrade, shots: int | None = None, transfer: str = COPIED
    ) -> list[Ranked]:
        """The methods of one transfer with their places; by default at the most shots.

        Raises:
            CompatbenchError: an upgrade, a number of shots or a transfer that is not here.
        """
        methods, shots = self._choose(upgrade, shots, transfer)
        return rank_upgrades(methods, self.expected, (upgrade,), shots)

    def ranking(
        self,
        source: str | None = None,
        target: str | None = None,
        shots: int | None = None,
        transfer: str = COPIED,
    ) -> pd.DataFrame:
        """The methods on one upgrade, best first; see ``ranking_frame`` for the columns.

        Source and target may be left out where they follow: of a suite with one upgrade both.

        Raises:
            CompatbenchError: there are several upgrades, or none, between them; or as ``ranked``.
        """
        upgrades = [
            upgrade
            for upgrade in self.expected.upgrades
            if source in (None, upgrade[0]) and target in (None, upgrade[1])
        ]
        if len(upgrades) > 1:
            known = ", ".join(map(_show, upgrades))
            raise CompatbenchError(f"ranking: give the source and the target of one of {known}")
        chosen = upgrades[0] if upgrades else (source or "any", target or "any")
        return ranking_frame(self.ranked(chosen, shots, transfer))

    def _repr_html_(self) -> str:
        """The rankings, as a notebook shows them."""
        columns = ["rank", "tied", "title", "source", "target", "h", "gain"]
        parts = [f"<p>{escape(repr(self))}</p>"]
        for upgrade in self.expected.upgrades:
            frame = self.ranking(*upgrade)[columns].round(1)
            parts.append(f"<p>{escape(_show(upgrade))}</p>{frame.to_html(index=False, na_rep='')}")
        return "".join(parts)

    def by_dataset(
        self,
        measure: MeasureName,
        source: str,
        target: str,
        shots: int | None = None,
        transfer: str = COPIED,
    ) -> pd.DataFrame:
        """One measure, methods × tasks and their ``mean``, methods in the order of the ranking.

        Raises:
            CompatbenchError: an unknown measure, or as ``ranked``.
        """
        self._check("measures", [measure], list_measures("upgrade"))
        rows = {}
        for standing in (
            ranked.standing for ranked in self.ranked((source, target), shots, transfer)
        ):
            means = standing.by_task(measure)
            rows[standing.info.name] = means | {"mean": exact(standing.mean(measure))}
        return pd.DataFrame.from_dict(rows, "index", dtype="float64").rename_axis("method")

    def classes(
        self, source: str, target: str, shots: int | None = None, transfer: str = COPIED
    ) -> pd.DataFrame:
        """Own and other classes on one upgrade, a row per method; see ``four_ways_frame``.

        Raises:
            CompatbenchError: the suite has no protocol with other classes, or as ``ranked``.
        """
        require_other_classes(self.suite.name, self.expected.protocol)
        methods, shots = self._choose((source, target), shots, transfer)
        measured = measure_four_ways(methods, self.expected, (source, target), shots)
        return four_ways_frame(measured)

    def gaps(self) -> pd.DataFrame:
        """Every failed or missing measurement that the suite asks for; see ``find_gaps``."""
        return find_gaps(self.suite, self.expected)

    def _choose(
        self, upgrade: Upgrade, shots: int | None, transfer: str
    ) -> tuple[Iterable[MethodResults], int]:
        """The methods of a transfer, and the shots: by default the most."""
        self._check("upgrades", [upgrade], self.expected.upgrades)
        shots = self._count_shots(shots)
        self._check("transfers", [transfer], self.suite.transfers)
        return self.suite.of(transfer).values(), shots

    def _count_shots(self, shots: int | None) -> int:
        shots = max(self.expected.shots) if shots is None else shots
        self._check("shots", [shots], self.expected.shots)
        return shots

    def _check(self, kind: str, wanted: Iterable[Any], known: Collection[Any]) -> None:
        for value in wanted:
            if value not in known:
                here = ", ".join(map(_show, known))
                where = f"results of '{self.suite.name}', {kind}"
                raise CompatbenchError(f"{where}: '{_show(value)}' is not one of {here}")


def _show(value: Any) -> str:
    return " → ".join(value) if isinstance(value, tuple) else str(value)


def ranking_frame(ranks: Sequence[Ranked]) -> pd.DataFrame:
    """Ranked methods with all that is known of them, in their order.

    Accuracies, H, flips and ECE are in percent, gains in points, times in seconds. A figure is
    missing (NaN, None) if any cell that it needs is.

    * ``rank`` is missing without an H, and ``tied`` if others share it; ``title`` is the method's.
    * ``_std`` is over seeds; ``h_low`` and ``h_high`` bound the 95 % interval over datasets.
    * ``harmed`` counts datasets; ``parameters`` are those of the largest module.
    * ``measured`` of all ``cells`` have a result; ``reasons`` say why some were ``refused``.
    """
    frame = pd.DataFrame([ranked.figures for ranked in ranks], dtype=object)
    types = (
        dict.fromkeys(frame, "float64")
        | dict.fromkeys(_COUNTS, "Int64")
        | {"learns": "bool", "tied": "bool"}
    )
    return frame.astype(types | dict.fromkeys(_TEXTS, "object"))


def find_gaps(results: SuiteResults, expected: Expected) -> pd.DataFrame:
    """Every failed or missing measurement that the suite asks for, by method and reason.

    ``title`` is with the transfer if it is not ``copied``; ``kind`` is ``failed`` or ``missing``,
    for a module that cannot be attached is a result. ``backbone`` is said to be ``retrained`` of a
    module that was fitted on it as a target.
    """
    columns = ["method", "title", "kind", "reason", "task", "test_set", "shots", "seed", "backbone"]
    sets = expected.test_sets(expected.measured_tasks)
    gaps: list[tuple[object, ...]] = []
    for method in sorted(
        results.all, key=lambda method: (method.info.name, method.transfer != COPIED)
    ):
        learns = method.info.learns
        statuses, reasons = method.column("status"), method.column("reason")
        pairs = {(at, name): name for at, target in expected.upgrades for name in (at, target)}
        if expected.retrained and learns and method.transfer == COPIED:
            for _, target in expected.upgrades:
                pairs.setdefault((target, target), f"{target}, retrained")
        draws = product(expected.shots if learns else expected.shots[:1], sets)
        lacking = []
        for (shots, (task, name)), seed, ((source, backbone), shown) in product(
            draws, expected.seeds_of(method.info), pairs.items()
        ):
            row = method.find_row(task, source, backbone, name, shots, seed)
            place = (task, name, shots, seed, shown)
            if row < 0:
                lacking.append((method.info.name, method.title, "missing", "", *place))
            elif statuses[row] == "failed":
                lacking.append((method.info.name, method.title, "failed", reasons[row], *place))
        gaps += sorted(lacking, key=lambda gap: gap[:4])
    return pd.DataFrame(gaps, columns=columns)


def find_disagreements(results: SuiteResults) -> list[tuple[str, str]]:
    """(backbone, test set) pairs whose zero-shot accuracy is not the same in all rows.

    It does not depend on the method, so a difference means that rows were made with
    other weights, other images, or on a machine that rounds otherwise.
    """
    known = defaultdict[tuple[str, str], set[tuple[float, float]]](set)
    for method in results.all:
        names = ("status", "backbone", "test_set", "zero_shot_correct", "total")
        for status, *pair, right, total in zip(*map(method.column, names), strict=True):
            if status == "ok":
                known[tuple(pair)].add((right, total))
    return sorted(pair for pair, counts in known.items() if len(counts) > 1)
