"""Columns of measures, as ``results.measures`` registers them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache
from typing import Any

from compatbench.results.measures import list_measures
from compatbench.results.ranks import Ranked
from compatbench.tables.numbers import percent, signed
from compatbench.tables.table import Column

# What every method's tables show, in this order; measures that are registered since come behind.
EVERYWHERE = ("source", "target", "h", "gain", "negative_flips", "positive_flips", "target_ece")
# What tables of their own show.
_ELSEWHERE = frozenset({"source_gain", "inconsistent_errors", "source_ece", "diversity"})
_TITLES = {"target_ece": "ECE"}  # where the source's is not shown


@cache
def measure_column(name: str, **more: Any) -> Column:
    """The column of a registered measure; ``more`` are fields of ``Column``."""
    measure = list_measures("upgrade")[name]
    about = ", ".join(filter(None, (measure.sentence, measure.unit)))
    show = signed if measure.unit == "points" else percent
    return Column(name, _TITLES.get(name, measure.title), about, show, **more)


def further_measures(
    shown: Collection[str] = EVERYWHERE, rows: Iterable[Ranked] | None = None
) -> list[str]:
    """Registered measures that no table names; of ``rows``, those of which one has a figure."""
    rows = None if rows is None else list(rows)
    return [
        name
        for name in list_measures("upgrade")
        if name not in shown and name not in EVERYWHERE and name not in _ELSEWHERE
        if rows is None or any(row.value(name) is not None for row in rows)
    ]
