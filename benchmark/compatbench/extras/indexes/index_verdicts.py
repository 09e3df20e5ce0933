"""What to do with a stored index, from what its ways were measured to give, and their prices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd

from compatbench.errors import CompatbenchError
from compatbench.extras.indexes.index_maps import time_map
from compatbench.extras.indexes.index_ways import Index, Way
from compatbench.extras.indexes.rankings import Array
from compatbench.extras.indexes.retrieval_files import CEILING, OLD
from compatbench.files.sizes import format_bytes
from compatbench.messages import count
from compatbench.results import choice
from compatbench.results.estimate import estimate, interval_columns
from compatbench.tables.numbers import interval_text, percent, signed, with_interval
from compatbench.tables.table import Column, Table, make_table, number, records

WIDTH = 79
JUDGED, AGREEMENT = "ndcg@10", "recall@10"  # the measure of the verdict
VERDICTS = {
    OLD: "stay with the old model",
    "copied": "keep the index as it is, with the new model's queries",
    "queries mapped": "map queries to the old index",
    "queries mapped, CSLS": "map queries to the old index, and rank by CSLS",
    "cascade": "cascade: map queries, encode the first {:,} anew and rank these",
    "rewritten": "rewrite the index",
    CEILING: "encode all again",
}
TITLES = {"ndcg@10": "nDCG@10", "recall@10": "Recall@10"}


@dataclass(frozen=True, repr=False)
class MeasuredIndex:
    """The ways to go on with an index; measures in percent, 95 % intervals over queries.

    Attributes:
        frame: a row for each ``way``, with the map that it goes ``by``, its ``pairs``, and ``at``,
            the N of a cascade or the percentage that is moved; then the measures (``rankings``),
            those of ``measure`` with bounds, ``_low`` and ``_high``; ``over_old``, by how many
            points it is above the old model in its own index; ``share``, its percentage of
            encoding all again. Its price: ``encode``, the items that the new model encodes, of a
            cascade over the log of these queries, with ``per_query`` and the share of its items
            that were ``encoded`` before, in percent; ``write``, the bytes of vectors that are
            written; ``seconds`` of CPU to map a million vectors.
        measure: that decides: nDCG@10, or without relevance Recall@10 of the ten neighbours in the
            index that is encoded again.
        verdict: the way to take, of ``VERDICTS``; ``cannot tell`` if none is shown to be better
            than the old model, or if no relevance is known.
        chosen: the row of ``frame`` that the verdict is of, or that is likely the best; None if
            it is to stay.
        needed: queries that would decide where it cannot be told.
    """

    frame: pd.DataFrame
    measure: str
    verdict: str
    chosen: int | None
    needed: float | None
    queries: int
    items: int

    def __repr__(self) -> str:
        return f"<MeasuredIndex: {self.verdict}, of {len(self.frame)} ways>"

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        needed = self.needed if self.needed is None or np.isfinite(self.needed) else None
        about = {"verdict": self.verdict, "chosen": self.chosen, "needed": needed}
        about |= {"measure": self.measure, "queries": self.queries, "items": self.items}
        return about | {"ways": self.frame}

    def table(self) -> Table:
        """Each way with the most pairs."""
        most = self.frame["pairs"].isin([0, self.frame["pairs"].max()])
        columns = [
            Column("way", "Way", left=True),
            Column(self.measure, TITLES[self.measure], show=percent),
            Column("over_old", "Over old"),
            Column("share", "Share", show=percent),
            Column("encode", "Encode", show="{:,}".format),
        ]
        rows = records(self.frame.loc[most])
        for row in rows:
            over = number(interval_text(row, "over_old", signed), row["over_old"])
            row |= {"way": show_way(row), "over_old": over}
        return make_table(columns, rows, narrow=("encode", "share"))

    def __str__(self) -> str:
        return "\n".join(fill(line, WIDTH, break_on_hyphens=False) for line in self._lines())

    def _lines(self) -> Iterator[str]:
        title = TITLES[self.measure]
        row = None if self.chosen is None else records(self.frame)[self.chosen]
        if self.measure == AGREEMENT:
            yield (
                "cannot tell: no relevance is known, so nothing says that the new model is better; "
                f"{title} is the share of the ten neighbours in the index encoded again."
            )
        elif self.verdict == "cannot tell":
            more = ""
            if self.needed is not None and self.needed <= 100 * self.queries:
                more = f"; about {self.needed:,.0f} queries would decide"
            yield f"cannot tell: no way is shown to be better than the old model{more}."
        else:
            said = VERDICTS[self.verdict].format(row["at"] if row else 0)
            yield f"{said}, by {_by(row)}." if row and row["by"] else f"{said}."
        if row is not None:
            likely = "Expect" if self.verdict in VERDICTS else f"Likely: {show_way(row)}, with"
            yield (
                f"{likely} {title} {with_interval(row, self.measure, percent)} %, "
                f"{with_interval(row, 'over_old', signed)} over the old model in its own index, "
                f"{row['share']:.0f} % of encoding all again."
            )
            yield _price(row)
        yield (
            f"This rests on {self.queries:,} queries and {count(self.items, 'item')}; 95 % "
            "intervals are over queries."
        )


def _by(row: Mapping[str, Any]) -> str:
    return row["by"] + (f" of {row['pairs']:,} pairs" if row["pairs"] else "")


def show_way(row: Mapping[str, Any]) -> str:
    """``cascade@50 by ridge``, ``10 % rewritten, both served``."""
    name, _, more = row["way"].partition(", ")
    if row["way"].startswith("partly"):
        return f"{row['at']} % {row['way'].removeprefix('partly ')}"
    name += f"@{row['at']:,}" if row["at"] else ""
    return name + (f" by {row['by']}" if row["by"] else "") + (f", {more}" if more else "")


def _price(row: Mapping[str, Any]) -> str:
    """What a way costs, in a sentence."""
    text = f"It encodes {count(row['encode'], 'item')}"
    if row["way"] == "cascade":
        text += (
            f", {row['per_query']:.1f} for each query of this log, for {row['encoded']:.0f} % of "
            "what it looks at were encoded before"
        )
    text += f", and writes {format_bytes(row['write'])}" if row["write"] else ", and writes nothing"
    if row["seconds"] is not None:
        text += f"; to map a million vectors takes {row['seconds']:.1f} CPU s"
    return f"{text}."


def summarise(
    index: Index, figures: Mapping[Way, Sequence[Mapping[str, Any]]], known: bool
) -> MeasuredIndex:
    """The rows and the verdict, from the measures of every draw of every way.

    ``known`` says whether what is relevant is known, and not taken from the new model.
    """
    by = JUDGED if known else AGREEMENT
    names = [name for name in next(iter(figures.values()))[0] if name != "encoded"]
    means = {
        way: {name: 100 * np.mean([draw[name] for draw in draws], axis=0) for name in names}
        for way, draws in figures.items()
    }
    asked = ~np.isnan(means[Way(OLD)][by])
    if not asked.any():
        raise CompatbenchError(
            "no query has a relevant item that is left beside the pairs; give fewer pairs"
        )
    means = {way: {name: of[name][asked] for name in names} for way, of in means.items()}
    old, again = means[Way(OLD)][by], means[Way(CEILING)][by]
    seconds = time_map(index.old.width, index.new.width)
    rows, ways = list[dict[str, Any]](), list[choice.Way]()
    for way, of in means.items():
        gain = None if way.name == OLD else estimate(of[by] - old)
        row = {"way": way.name, "by": way.by, "pairs": way.pairs, "at": way.at}
        row |= {name: float(of[name].mean()) for name in names}
        row |= interval_columns(by, estimate(of[by])) | interval_columns("over_old", gain)
        row["share"] = 100 * row[by] / again.mean() if again.any() else None
        encoded = float(np.mean([draw["encoded"] for draw in figures[way]]))
        row |= price(index, way, encoded) | {"seconds": seconds if way.by else None}
        if way.name in VERDICTS and gain is not None:
            cost = row["encode"], row["write"]
            ways.append(choice.Way(str(len(rows)), gain, cost, of[by]))
        rows.append(row)
    verdict, chosen, needed = _judge(ways, old, [row["way"] for row in rows], known)
    items = int(index.kept.sum())
    return MeasuredIndex(pd.DataFrame(rows), by, verdict, chosen, needed, old.size, items)


def _judge(
    ways: Sequence[choice.Way], old: Array, names: Sequence[str], known: bool
) -> tuple[str, int | None, float | None]:
    """The verdict, the row that it is of or that is likely the best, and the queries it takes."""
    if not known:
        others = [way for way in ways if names[int(way.name)] != CEILING]
        best = max(others, key=lambda way: way.gain.value, default=None)
        return "cannot tell", None if best is None else int(best.name), None

    way, shown, harmful, _ = choice.choose_checked(ways, [each.figures - old for each in ways])
    if shown:
        return names[int(way.name)], int(way.name), None
    if harmful:
        return OLD, None, None
    needed = choice.units_to_decide(way.gain, old.size)
    return "cannot tell", int(way.name) if way.gain.value > 0 else None, needed


def price(index: Index, way: Way, encoded: float) -> dict[str, Any]:
    """What a way takes: items to encode with the new model, and bytes to write."""
    every, queries = len(index.kept), len(index.asked_new)
    whole = every * index.new.width * index.new.dtype.itemsize
    encode, write, cascade = way.pairs, 0, {"per_query": None, "encoded": None}
    if way.name == CEILING:
        encode, write = every, whole
    elif way.name.startswith("partly"):
        write = whole * way.at // 100
        encode += every * way.at // 100 if "re-encoded" in way.name else 0
    elif way.name == "rewritten":
        write = whole
    elif way.name == "cascade":
        # As if the pairs had stayed in the index, so that all of it is never cheaper than all.
        encode += round(encoded * every / index.kept.sum())
        looked_at = queries * way.at
        cascade = {"per_query": encoded / queries, "encoded": 100 * (1 - encoded / looked_at)}
    return {"encode": encode, **cascade, "write": write}
