"""What is known of methods in a suite, and two machines' work on one method put together."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from compatbench.data.cards import COPIED
from compatbench.messages import count
from compatbench.results.rows import Cost, Row, figures_of, in_order, to_frame, with_figures
from compatbench.results.stored_method import MethodInfo, join_provenance

_Function = TypeVar("_Function", bound=Callable[..., Any])


def remembered(function: _Function) -> _Function:
    """A function of results that computes what it gives once, for as long as these are there."""

    @wraps(function)
    def look_up(results: Any, *arguments: Any) -> Any:
        key = function, *arguments
        if key not in results.memory:
            results.memory[key] = function(results, *arguments)
        return results.memory[key]

    return cast(_Function, look_up)


@dataclass(frozen=True, eq=False)
class MethodResults:
    """All that is known of one method in one suite, by one transfer or by all."""

    info: MethodInfo
    config: Mapping[str, Any]  # the resolved settings, as JSON values
    differs: Mapping[str, tuple[Any, Any]]  # what the suite changed: (published recipe, suite)
    provenance: Mapping[str, tuple[str, ...]]  # versions, or processors, that rows were made with
    rows: pd.DataFrame  # the lines of the files (``Row``, ``Cost``)
    costs: pd.DataFrame = field(default_factory=lambda: to_frame([], Cost))
    transfer: str | None = COPIED  # of the rows; None if they are of every transfer, as in a file
    # What functions that are ``remembered`` have given for these results.
    memory: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def ranked_with(self) -> str | None:
        """The transfer that it is ranked with: ``words`` if the method itself reads words."""
        return "words" if self.transfer == COPIED and "words" in self.info.needs else self.transfer

    @property
    def title(self) -> str:
        """The method's title; with the transfer, where the module is not attached as it is."""
        plain = self.transfer in (COPIED, None)
        return self.info.title if plain else f"{self.info.title} ({self.transfer})"

    @cached_property
    def table(self) -> pd.DataFrame:
        """The rows with their figures (see ``with_figures``) and what they took."""
        return with_figures(self.rows, self.costs)

    @cached_property
    def _figures(self) -> dict[str, NDArray[np.float64]]:
        return figures_of(self.rows, self.costs)

    @remembered
    def column(self, name: str) -> NDArray[Any]:
        """A column of the table, of floats or of text, ``[rows + 1]``.

        The last entry is NaN, or an empty text, so that position −1 has none.
        """
        if name in self._figures:
            return np.append(self._figures[name], np.nan)
        values = self.rows[name]
        # Text is of another type in pandas 2 than in pandas 3.
        numeric = pd.api.types.is_numeric_dtype(values.dtype)
        dtype, nothing = (float, np.nan) if numeric else (object, "")
        return np.append(values.to_numpy(dtype, na_value=nothing), nothing)

    @cached_property
    def _positions(self) -> dict[tuple[object, ...], int]:
        names = ["task", "source", "backbone", "test_set", "shots", "seed"]
        columns = [self.rows[name].tolist() for name in names[: 6 if self.info.learns else 4]]
        places = list(zip(*columns, strict=True))
        failed = (self.rows["status"] == "failed").to_numpy()
        # Of several draws the first counts, one that has not failed before others.
        order = [*np.flatnonzero(failed)[::-1], *np.flatnonzero(~failed)[::-1]]
        return {places[number]: number for number in order}

    def find_row(
        self, task: str, source: str, backbone: str, test_set: str, shots: int, seed: int
    ) -> int:
        """The position of a row, or −1; of what learns nothing, any shots and seed will do."""
        draw = (shots, seed) if self.info.learns else ()
        return self._positions.get((task, source, backbone, test_set, *draw), -1)


@dataclass(frozen=True)
class SuiteResults:
    """The results of a suite."""

    name: str
    all: tuple[MethodResults, ...]  # every method by every transfer, those copied first
    digest: str = ""  # SHA-256 of the files of rows and costs, in the order of their names
    memory: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def transfers(self) -> list[str]:
        """``copied``, and then every other transfer that was measured."""
        return sorted(
            {COPIED, *(str(method.ranked_with) for method in self.all)}, key=transfer_order
        )

    def of(self, transfer: str) -> dict[str, MethodResults]:
        """Method -> its rows that are ranked with those of one transfer."""
        return {method.info.name: method for method in self.all if method.ranked_with == transfer}

    def restrict(
        self, methods: Collection[str] | None = None, transfers: Collection[str] | None = None
    ) -> SuiteResults:
        """The results of some methods and transfers; of all where it is not said."""
        kept = (
            method
            for method in self.all
            if (methods is None or method.info.name in methods)
            and (transfers is None or method.transfer in transfers)
        )
        return replace(self, all=tuple(kept))

    @cached_property
    def methods(self) -> dict[str, MethodResults]:
        """Method -> its rows with modules that are attached as they are, by name."""
        return {method.info.name: method for method in self.all if method.transfer == COPIED}

    @property
    def methods_in_words(self) -> str:
        """How many methods there are: ``57 methods (2 of them in more than one setting)``."""
        several = {name.partition("+")[0] for name in self.methods if "+" in name}
        methods = count(len({name.partition("+")[0] for name in self.methods}), "method")
        return methods + f" ({len(several)} of them in more than one setting)" * bool(several)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Every row, with accuracies and gains in percent, and with times and memory."""
        empty = with_figures(to_frame([], Row), to_frame([], Cost))
        return pd.concat([empty, *(method.table for method in self.all)], ignore_index=True)


def split_results(name: str, methods: Iterable[MethodResults], digest: str = "") -> SuiteResults:
    """A suite's results by transfer, of methods with all their transfers.

    A method without any row is one of copied modules.
    """
    parts = []
    for whole in methods:
        transfers = {*whole.rows["transfer"].tolist()} or {COPIED}
        for transfer in transfers:
            rows, costs = whole.rows, whole.costs
            if len(transfers) > 1:  # to choose rows takes longer than to look
                rows = rows[rows["transfer"] == transfer]
            if {*costs["key"].tolist()} - (keys := {*rows["key"].tolist()}):
                costs = costs[costs["key"].isin(keys)]
            parts.append(replace(whole, rows=rows, costs=costs, transfer=transfer))
    parts.sort(key=lambda part: transfer_order(part.transfer))
    return SuiteResults(name, tuple(parts), digest)


def transfer_order(transfer: str | None) -> tuple[bool, list[str | int]]:
    """Copied first, the others by name; ``retrained+4`` stands before ``retrained+16``."""
    parts = re.split(r"(\d+)", transfer or "")
    return transfer != COPIED, [int(part) if part.isdigit() else part for part in parts]


def merge_results(
    old: MethodResults | None, new: MethodResults, valid_keys: set[str]
) -> MethodResults:
    """Two machines' work on one method: rows, costs and, if an old row stays, provenance.

    An old row stays if its key is valid and no new row takes its place. A new failure does not
    take the place of an old result under the same key: the fit is the same, so the result still
    holds. Of two lines of ``new`` for one measurement the later counts. Info, config and differs
    are those of ``new``.
    """
    old = old or replace(new, rows=new.rows[:0], costs=new.costs[:0])
    kept = old.rows.loc[old.rows["key"].isin(valid_keys)]
    rows = pd.concat([kept, new.rows], keys=["old", "new"], names=["origin", None])
    done = rows["status"] != "failed"
    has_result = done.groupby([rows[name] for name in (*Row.place, "key")]).transform("any")
    rows = rows.loc[done | ~has_result].drop_duplicates(Row.place, keep="last")
    rows = in_order(rows, Row)
    keys = valid_keys.intersection(rows["key"])
    costs = pd.concat([old.costs.loc[old.costs["key"].isin(keys)], new.costs])
    costs = in_order(costs.drop_duplicates(Cost.place, keep="last"), Cost)
    made = [new, old] if "old" in rows.index.get_level_values("origin") else [new]
    return replace(
        new,
        rows=rows.reset_index(drop=True),
        costs=costs.reset_index(drop=True),
        provenance=join_provenance(results.provenance for results in made),
        transfer=None,
    )
