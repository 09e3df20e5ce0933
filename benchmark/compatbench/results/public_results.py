"""What ``run`` and ``results`` return: the results of a suite as pandas frames."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from compatbench.data.cards import COPIED
from compatbench.errors import CompatbenchError
from compatbench.messages import count
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.gaps import find_gaps
from compatbench.results.measures import list_measures
from compatbench.results.other_classes import measure_other_classes, require_other_classes
from compatbench.results.ranking import rank_methods, rank_transfer
from compatbench.results.suite_results import SuiteResults
from compatbench.results.upgrade_rows import mean_of_complete, pair_rows

if TYPE_CHECKING:
    from compatbench.engine.cell import Cell


# The columns of a ranking behind those of measures.
_COLUMNS = [
    "h_low",
    "h_high",
    "source_std",
    "target_std",
    "h_std",
    "relative_nfr",
    "harmed",
    "worst_task",
    "worst_gain",
    "parameters",
    "parameters_low",
    "module_bytes",
    "fit_seconds",
    "evaluate_seconds",
    "peak_memory",
    "cells",
    "measured",
    "not_attached",
    "reasons",
    "title",
    "paper",
    "depth",
    "learns",
    "transfer",
    "state",
]


@dataclass(frozen=True, repr=False, eq=False)
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
        tasks: str | Iterable[str] | None = None,
        seeds: int | Iterable[int] | None = None,
        shots: int | Iterable[int] | None = None,
        methods: str | Iterable[str] | None = None,
        transfers: str | Iterable[str] | None = None,
    ) -> Results:
        """Return the results of a part of the suite: means are taken over exactly that part.

        Each argument is one value or several; by default all.

        Raises:
            CompatbenchError: a value that the suite does not have, and that was not measured; or
                an empty list.
        """
        expected = self.expected
        frame = self.frame
        chosen_tasks = self._choose("tasks", tasks, [*expected.tasks, *frame["task"]])
        chosen_seeds = self._choose("seeds", seeds, [*expected.seeds, *frame["seed"]])
        chosen_shots = self._choose("shots", shots, [*expected.shots, *frame["shots"]])
        chosen_methods = self._choose("methods", methods, self.suite.methods)
        chosen_transfers = self._choose("transfers", transfers, frame["transfer"])
        return replace(
            self,
            suite=self.suite.restrict(chosen_methods, chosen_transfers),
            expected=expected.restrict(chosen_tasks, chosen_seeds, chosen_shots),
        )

    def _choose(self, kind: str, values: Any, known: Iterable[Any]) -> list[Any] | None:
        """Return one value or several as a list, checked; None for all."""
        if values is None:
            return None
        is_one = isinstance(values, str) or not isinstance(values, Iterable)
        chosen = [values] if is_one else list(values)
        if not chosen:
            raise CompatbenchError(f"restrict: '{kind}' is empty; leave it out for all {kind}")
        self._check(kind, chosen, dict.fromkeys(known))
        return chosen

    def ranking(
        self,
        source: str | None = None,
        target: str | None = None,
        shots: int | None = None,
        transfer: str = COPIED,
    ) -> pd.DataFrame:
        """Return the methods on one upgrade, best first; see ``rank_methods`` for the columns.

        Measures are named after their titles, such as ``nfr``. Source and target may be left out
        where only one upgrade is possible. By default, shots are the most.

        Raises:
            CompatbenchError: several upgrades, or none, between them; or a number of shots or a
                transfer that is not here.
        """
        upgrades = []
        for upgrade in self.expected.upgrades:
            if source in (None, upgrade[0]) and target in (None, upgrade[1]):
                upgrades.append(upgrade)
        if len(upgrades) > 1:
            known = ", ".join(map(_show, upgrades))
            raise CompatbenchError(f"ranking: give the source and the target of one of {known}")
        chosen = upgrades[0] if upgrades else (source or "any", target or "any")
        shots = self._check_ranking(chosen, shots, transfer)
        ranking = rank_methods(self.suite, self.expected, (chosen,), shots)
        names = {measure.name: measure.column for measure in list_measures("upgrade").values()}
        ranking = rank_transfer(ranking, transfer).rename(columns=names)
        return ranking[["rank", "tied", "method", *names.values(), *_COLUMNS]]

    def _repr_html_(self) -> str:
        """Return the rankings as a notebook shows them."""
        columns = ["rank", "tied", "title", "source", "target", "h", "gain"]
        parts = [f"<p>{escape(repr(self))}</p>"]
        for upgrade in self.expected.upgrades:
            frame = self.ranking(*upgrade)[columns].round(1)
            parts.append(f"<p>{escape(_show(upgrade))}</p>{frame.to_html(index=False, na_rep='')}")
        return "".join(parts)

    def by_dataset(
        self,
        measure: str,
        source: str,
        target: str,
        shots: int | None = None,
        transfer: str = COPIED,
    ) -> pd.DataFrame:
        """Return one measure, methods × tasks and their ``mean``, in the order of the ranking.

        Raises:
            CompatbenchError: an unknown measure, or as ``ranking``.
        """
        self._check("measures", [measure], list_measures("upgrade"))
        upgrade = (source, target)
        shots = self._check_ranking(upgrade, shots, transfer)
        ranking = rank_methods(self.suite, self.expected, (upgrade,), shots)
        ranking = rank_transfer(ranking, transfer)
        rows = pair_rows(self.suite, self.expected, upgrade, shots)
        means = mean_of_complete(rows, ["module", "task"], [measure])[measure].unstack("task")
        table = means.loc[ranking["module"], list(self.expected.tasks)]
        table = table.assign(mean=ranking[measure].to_numpy())
        return table.set_axis(ranking["method"].rename("method"), axis="index")

    def classes(
        self, source: str, target: str, shots: int | None = None, transfer: str = COPIED
    ) -> pd.DataFrame:
        """Return own and other classes on one upgrade; see ``measure_other_classes``.

        Raises:
            CompatbenchError: the suite has no protocol with other classes, or as ``ranking``.
        """
        require_other_classes(self.suite.name, self.expected.protocol)
        shots = self._check_ranking((source, target), shots, transfer)
        measured = measure_other_classes(self.suite, self.expected, (source, target), shots)
        measured = measured[measured["ranked_with"] == transfer].reset_index(drop=True)
        return measured.drop(columns=["transfer", "ranked_with"])

    def gaps(self) -> pd.DataFrame:
        """Return every failed or missing measurement that the suite asks for (``find_gaps``)."""
        return find_gaps(self.suite, self.expected)

    def _check_ranking(self, upgrade: Upgrade, shots: int | None, transfer: str) -> int:
        """Return the shots, by default the most; raise an error if there is no such ranking."""
        self._check("upgrades", [upgrade], self.expected.upgrades)
        shots = max(self.expected.shots) if shots is None else shots
        self._check("shots", [shots], self.expected.shots)
        self._check("transfers", [transfer], self.suite.transfers)
        return shots

    def _check(self, kind: str, requested: Iterable[Any], known: Collection[Any]) -> None:
        for value in requested:
            if value not in known:
                here = ", ".join(map(_show, known))
                where = f"results of '{self.suite.name}', {kind}"
                raise CompatbenchError(f"{where}: '{_show(value)}' is not one of {here}")


def _show(value: Any) -> str:
    return " → ".join(value) if isinstance(value, tuple) else str(value)
