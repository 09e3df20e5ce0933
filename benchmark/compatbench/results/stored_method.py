"""What the files of one method hold, and how the work of two machines on it is put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import pandas as pd
from pydantic import ConfigDict

from compatbench.data.cards import ConfigName
from compatbench.data.labels import Need
from compatbench.results.rows import Cost, Row, in_order, to_frame


@dataclass(frozen=True)
class MethodInfo:
    """A method's card, as far as the leaderboard needs it; see ``MethodCard``."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: ConfigName
    title: str
    paper: str
    depth: Literal["none", "shallow", "deep"]
    inserts: tuple[str, ...]
    learns: bool = True
    needs: tuple[Need, ...] = ()
    refused: str = ""  # the rule of 'compatbench check' that refused it; it is not ranked

    @property
    def sees_tests(self) -> bool:
        """Return True if it sees all images of a test set before it answers."""
        return "stream" in self.needs


@dataclass(frozen=True, eq=False)
class StoredMethod:
    """The content of a method's files in ``results/<suite>/``: rows of every transfer."""

    info: MethodInfo
    config: Mapping[str, Any]  # the resolved settings, as JSON values
    differs: Mapping[str, tuple[Any, Any]]  # what the suite changed: (published recipe, suite)
    provenance: Mapping[str, tuple[str, ...]]  # versions, or processors, that rows were made with
    rows: pd.DataFrame  # a line for each ``Row``
    costs: pd.DataFrame = field(default_factory=lambda: to_frame([], Cost))


def merge_stored(old: StoredMethod | None, new: StoredMethod) -> StoredMethod:
    """Return two machines' work on one method: rows, costs and, if an old row stays, provenance.

    An old row stays unless a new row takes its place. A new failure does not replace an old result
    under the same key: the fit is the same, so the result still holds. If ``new`` has two lines for
    one measurement, the later counts. Info, config and differs are those of ``new``.
    """
    if old is None:
        old = replace(new, rows=new.rows[:0], costs=new.costs[:0])
    rows = pd.concat([old.rows, new.rows], keys=["old", "new"], names=["origin", None])
    done = rows["status"] != "failed"
    cell_columns = [rows[name] for name in (*Row.place, "key")]
    has_result = done.groupby(cell_columns).transform("any")
    rows = rows.loc[done | ~has_result].drop_duplicates(Row.place, keep="last")
    rows = in_order(rows, Row)
    old_costs = old.costs.loc[old.costs["key"].isin(rows["key"])]
    costs = pd.concat([old_costs, new.costs])
    costs = in_order(costs.drop_duplicates(Cost.place, keep="last"), Cost)
    made = [new]
    if "old" in rows.index.get_level_values("origin"):
        made.append(old)
    return replace(
        new,
        rows=rows.reset_index(drop=True),
        costs=costs.reset_index(drop=True),
        provenance=join_provenance(method.provenance for method in made),
    )


def join_provenance(
    parts: Iterable[Mapping[str, str | Iterable[str]]],
) -> dict[str, tuple[str, ...]]:
    """Return every name with all its values, sorted; a value may be one string or several."""
    joined: dict[str, set[str]] = {}
    for part in parts:
        for name, values in part.items():
            if isinstance(values, str):
                values = [values]
            joined.setdefault(name, set()).update(values)
    return {name: tuple(sorted(joined[name])) for name in sorted(joined)}
