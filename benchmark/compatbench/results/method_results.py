"""The results of a method and of a suite, as they are held in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ConfigDict

from compatbench.data.cards.suite import COPIED, ConfigName
from compatbench.results.frame import to_frame, with_figures
from compatbench.results.rows import Cost, Order, Row


@dataclass(frozen=True)
class MethodInfo:
    """A method's card, as far as the leaderboard needs it.

    Attributes:
        name: the name of its files.
        title: the name as its authors write it.
        paper: such as ``arXiv:2109.01134``.
        depth: ``none`` for a method that inserts nothing.
        inserts: the places where the module acts.
        learns: False for a method that looks at no image; it has one seed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: ConfigName
    title: str
    paper: str
    depth: Literal["none", "shallow", "deep"]
    inserts: tuple[str, ...]
    learns: bool = True


@dataclass(frozen=True)
class MethodResults:
    """All that is known of one method in one suite, by one transfer or by all.

    Attributes:
        config: the resolved settings, as JSON values.
        differs: settings that the suite changed: name -> (published recipe, suite).
        provenance: name -> every version, or processor, that some row was made with.
        transfer: of the rows; None if they are of every transfer, as in the method's file.
    """

    info: MethodInfo
    config: Mapping[str, Any]
    differs: Mapping[str, tuple[Any, Any]]
    provenance: Mapping[str, tuple[str, ...]]
    rows: Sequence[Row]
    costs: Sequence[Cost] = ()
    transfer: str | None = COPIED

    @property
    def title(self) -> str:
        """The method's title; with the transfer, where the module is not attached as it is."""
        return (
            self.info.title
            if self.transfer in (COPIED, None)
            else f"{self.info.title} ({self.transfer})"
        )

    @cached_property
    def positions(self) -> dict[Order, int]:
        """Place of a measurement -> number of its row."""
        return {row.order: number for number, row in enumerate(self.rows)}

    @cached_property
    def any_draw(self) -> dict[tuple[str, str, str, str], list[int]]:
        """Task, source, backbone and test set -> numbers of the rows of any shots and seed."""
        found: dict[tuple[str, str, str, str], list[int]] = {}
        for number, row in enumerate(self.rows):
            if row.transfer != (self.transfer or COPIED):
                continue
            place = (row.task, row.source, row.backbone, row.test_set)
            found.setdefault(place, []).append(number)
        return found

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        return {}

    def column(self, name: str) -> NDArray[Any]:
        """A column of numbers, those of ``with_figures`` included, as floats, or one of text.

        Returns:
            ``[rows + 1]``: the last entry is NaN, or an empty text, so that position −1 has none.
        """
        if name not in self._columns:
            self._columns[name] = self._make_column(name)
        return self._columns[name]

    def _make_column(self, name: str) -> NDArray[Any]:
        if name == "gain":
            return self.column("accuracy") - self.column("zero_shot")
        if name.endswith("_share"):
            return 100 * self.column(name.removesuffix("_share")) / self.column("total")
        values = [getattr(row, name) for row in self.rows]
        if name in ("status", "reason", "key"):
            return np.array([*values, ""], dtype=object)
        return np.array([*values, None], dtype=float)


@dataclass(frozen=True)
class SuiteResults:
    """The results of a suite.

    Attributes:
        methods: method -> its rows with modules that are attached as they are, by name.
        transferred: transfer -> method -> its rows with modules that are brought along so.
    """

    name: str
    methods: Mapping[str, MethodResults]
    transferred: Mapping[str, Mapping[str, MethodResults]] = field(default_factory=dict)

    def of(self, transfer: str) -> Mapping[str, MethodResults]:
        """Method -> its rows by one transfer."""
        return self.methods if transfer == COPIED else self.transferred.get(transfer, {})

    @property
    def all(self) -> list[MethodResults]:
        """The results of every method by every transfer, those copied first."""
        every = (self.methods, *(self.transferred[name] for name in sorted(self.transferred)))
        return [one for methods in every for one in methods.values()]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Every row, with accuracies and gains in percent beside the counts."""
        return with_figures(to_frame([row for one in self.all for row in one.rows], Row))

    @cached_property
    def costs(self) -> pd.DataFrame:
        """What every row took, with its method and transfer."""
        frame = to_frame([cost for one in self.all for cost in one.costs], Cost)
        owners = [(one.info.name, one.transfer) for one in self.all for _ in one.costs]
        return frame.assign(
            method=[name for name, _ in owners], transfer=[transfer for _, transfer in owners]
        )
