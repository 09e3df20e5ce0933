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
from compatbench.results.frame import FIGURES, Table, compute_figure, to_frame, with_figures
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
        # Modules that are attached through words have been called aligned from the start.
        return (
            self.info.title if self.transfer in (COPIED, None) else f"{self.info.title} + aligned"
        )

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The rows as a frame, with the columns of ``Row``."""
        return self.rows.frame if isinstance(self.rows, Table) else to_frame(self.rows, Row)

    @cached_property
    def cost_frame(self) -> pd.DataFrame:
        """The costs as a frame, with the columns of ``Cost``."""
        return self.costs.frame if isinstance(self.costs, Table) else to_frame(self.costs, Cost)

    @cached_property
    def positions(self) -> dict[Order, int]:
        """Place of a measurement -> number of its row in the frame."""
        places = zip(*(self.frame[name].tolist() for name in Row.order_columns), strict=True)
        return {place: number for number, place in enumerate(places)}

    @cached_property
    def fit_times(self) -> dict[str, float]:
        """Key of a cell -> wall clock of its fit."""
        columns = (self.cost_frame[name].tolist() for name in ("key", "fit_seconds"))
        return dict(zip(*columns, strict=True))

    def column(self, name: str) -> NDArray[Any]:
        """A column of numbers, computed ones included, as floats, or one of text.

        Returns:
            ``[rows + 1]``: the last entry is NaN, or an empty text, so that position −1 has none.
        """
        if name in self._columns:
            return self._columns[name]
        if name in FIGURES:
            values = compute_figure(name, self.column)
        else:
            values = self.frame[name]
            if pd.api.types.is_numeric_dtype(values.dtype):
                values = np.append(values.to_numpy("float64", na_value=np.nan), np.nan)
            else:
                values = np.array([*values.tolist(), ""], dtype=object)
        self._columns[name] = values
        return values

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        return {}


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
        frames = [one.frame for one in self.all] or [to_frame([], Row)]
        return with_figures(pd.concat(frames, ignore_index=True))

    @cached_property
    def costs(self) -> pd.DataFrame:
        """What every row took, with its method and transfer."""
        frames = [
            one.cost_frame.assign(method=one.info.name, transfer=one.transfer) for one in self.all
        ]
        return pd.concat(frames, ignore_index=True) if frames else to_frame([], Cost)
