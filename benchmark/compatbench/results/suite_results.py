"""The results of a suite: one tidy frame, and what is known of each method.

The frame has a row for each measurement: a module of one fit on one backbone and one test set. Its
columns are those of a results file (``Row``), every measure of a row, and what the row took:

| columns | meaning |
| --- | --- |
| ``method``, ``transfer``, ``task``, ``test_set``, ``source``, ``backbone``, ``shots``, ``seed`` | the place: no two rows share it. ``backbone`` equals ``source`` on the model of the fit |
| ``ranked_with`` | the transfer of the ranking: ``words`` for copied modules of a method that itself reads words, else ``transfer`` |
| ``status``, ``reason`` | ``ok``, ``failed`` or ``not transferable``, and why |
| ``correct``, ``total``, ``zero_shot_correct``, flips, ``only_module``, ``only_zeroshot`` | counts of images |
| ``accuracy``, ``zero_shot``, ``ece``, ``changed``, shares of flips | percent |
| ``gain`` | percentage points over zero-shot on the same backbone |
| ``parameters``, ``module_bytes``, ``fit_seconds``, ``evaluate_seconds``, ``peak_memory`` | numbers, bytes and seconds |
| ``key``, ``data`` | hashes of the cell, and of the weights and the test set |

Counts are ``Int64``, other numbers ``float64``, and all else is text. A missing number is NA or
NaN. ``Row`` checks every line when a file is read.
"""  # noqa: E501

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from compatbench.data.cards import COPIED
from compatbench.messages import count
from compatbench.results.rows import Cost, Row, to_frame, with_figures
from compatbench.results.stored_method import MethodInfo, StoredMethod

# The columns that name a row.
PLACE = ["method", "transfer", "task", "test_set", "source", "backbone", "shots", "seed"]


@dataclass(frozen=True, eq=False)
class SuiteResults:
    """The results of a suite; ``frame`` is described above."""

    name: str
    methods: Mapping[str, StoredMethod]
    frame: pd.DataFrame
    digest: str = ""  # SHA-256 of the files of rows and costs, in the order of their names

    @cached_property
    def transfers(self) -> list[str]:
        """Return ``copied``, and then every other transfer that methods are ranked with."""
        return sorted({COPIED, *self.frame["ranked_with"]}, key=transfer_order)

    @property
    def infos(self) -> list[MethodInfo]:
        """Return the cards of the methods."""
        return [method.info for method in self.methods.values()]

    def ranked_with(self, transfer: str) -> set[str]:
        """Return the names of the methods that have rows in the ranking of a transfer."""
        return set(self.frame.loc[self.frame["ranked_with"] == transfer, "method"])

    def restrict(
        self, methods: Collection[str] | None = None, transfers: Collection[str] | None = None
    ) -> SuiteResults:
        """Return the results of some methods and transfers; by default of all."""
        kept = dict(self.methods)
        frame = self.frame
        if methods is not None:
            kept = {name: method for name, method in kept.items() if name in methods}
            frame = frame[frame["method"].isin(set(methods))]
        if transfers is not None:
            without_rows = set(kept) - set(frame["method"])
            frame = frame[frame["transfer"].isin(set(transfers))]
            measured = set(frame["method"]) | without_rows
            kept = {name: method for name, method in kept.items() if name in measured}
        return replace(self, methods=kept, frame=frame.reset_index(drop=True))

    @property
    def base_methods(self) -> set[str]:
        """Return the names of the methods, each once, in however many settings it was measured."""
        return {name.partition("+")[0] for name in self.methods}

    @property
    def methods_in_words(self) -> str:
        """Return how many methods there are: ``57 methods (2 of them in several settings)``."""
        bases = self.base_methods
        several = {name.partition("+")[0] for name in self.methods if "+" in name}
        text = count(len(bases), "method")
        if several:
            text += f" ({len(several)} of them in more than one setting)"
        return text

    @cached_property
    def by_place(self) -> pd.DataFrame:
        """Return the frame with ``PLACE`` as its index.

        A method that learns nothing has one result for all shots and seeds. It stands here once,
        with 0 shots and seed 0: the first draw, or the first that has not failed.
        """
        fixed = [info.name for info in self.infos if not info.learns]
        frame = self.frame
        rows = frame[~frame["method"].isin(fixed)]
        of_fixed = frame[frame["method"].isin(fixed)]
        failed = of_fixed["status"] == "failed"
        of_fixed = pd.concat([of_fixed[~failed], of_fixed[failed]])
        of_fixed = of_fixed.assign(shots=0, seed=0).drop_duplicates(PLACE)
        return pd.concat([rows, of_fixed]).set_index(PLACE)

    def find_rows(self, places: pd.DataFrame) -> pd.DataFrame:
        """Return the row of ``by_place`` at each of these places, in their order; NaN without one.

        Args:
            places: the columns of ``PLACE``.
        """
        numbers = self._numbers_by_place
        wanted = zip(*[places[name].tolist() for name in PLACE], strict=True)
        found = [numbers.get(place, -1) for place in wanted]
        # Of a frame with so many columns in its index, ``reindex`` takes several times as long.
        return self.by_place.reset_index(drop=True).reindex(found)

    @cached_property
    def _numbers_by_place(self) -> dict[tuple[Any, ...], int]:
        return {place: number for number, place in enumerate(self.by_place.index)}


def gather_results(
    name: str, methods: Mapping[str, StoredMethod], digest: str = ""
) -> SuiteResults:
    """Return the results of a suite from what its methods' files hold."""
    rows = [to_frame([], Row), *(method.rows for method in methods.values())]
    costs = [to_frame([], Cost), *(method.costs for method in methods.values())]
    frame = with_figures(pd.concat(rows, ignore_index=True), pd.concat(costs, ignore_index=True))
    read_words = [method.info.name for method in methods.values() if "words" in method.info.needs]
    in_words = (frame["transfer"] == COPIED) & frame["method"].isin(read_words)
    frame["ranked_with"] = frame["transfer"].mask(in_words, "words")
    order = sorted(set(frame["transfer"]), key=transfer_order)
    places = frame["transfer"].map({transfer: place for place, transfer in enumerate(order)})
    frame = frame.loc[places.sort_values(kind="stable").index]
    return SuiteResults(name, dict(methods), frame.reset_index(drop=True), digest)


def transfer_order(transfer: str) -> tuple[bool, list[str | int]]:
    """Return a key for sorting: copied first, ``retrained+4`` before ``retrained+16``."""
    parts: list[str | int] = []
    for part in re.split(r"(\d+)", transfer):
        parts.append(int(part) if part.isdigit() else part)
    return transfer != COPIED, parts
