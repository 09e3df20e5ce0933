"""The leaderboard's table of stored indexes: what is found in a gallery of the old model."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from compatbench.extras.indexes.retrieval_files import CEILING, OLD, POOLED, read_retrieval
from compatbench.results.result_files import RESULTS, RETRIEVAL
from compatbench.tables.numbers import percent
from compatbench.tables.pages.sections import Section
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import Column, Table, code, make_table, sentence

# Columns: a way, with the most images of those that were measured.
SHOWN = {
    OLD: "Old model",
    "copied": "Copied",
    "words": "Words",
    "ridge": "Ridge",
    CEILING: "Encoded again",
}


def pooled_rows(frame: pd.DataFrame, queries: str = "texts") -> pd.DataFrame:
    """The rows of the gallery of all test sets, for one kind of queries."""
    return frame.loc[(frame["gallery"] == POOLED) & (frame["queries"] == queries)]


def most_images(frame: pd.DataFrame) -> pd.DataFrame:
    """Each way once for each upgrade, gallery and kind of queries, with the most images."""
    key = ["source", "target", "gallery", "queries", "way"]
    return frame.sort_values("pairs", kind="stable").drop_duplicates(key, keep="last")


def retrieval_table(frame: pd.DataFrame) -> Table:
    """Mean average precision of the new model's texts by upgrade and way, in percent.

    Where captions were asked for, too, they have rows of their own.
    """
    columns = [Column(way, title, show=percent) for way, title in SHOWN.items()]
    records = []
    for queries, by in {"texts": "", "captions": ", by captions"}.items():
        pooled = most_images(pooled_rows(frame, queries))
        for upgrade, of_upgrade in pooled.groupby(["source", "target"], sort=False):
            source, target = map(str, tuple(upgrade))  # type: ignore[arg-type]
            record = dict(zip(of_upgrade["way"], of_upgrade["map"], strict=True))
            record["upgrade"] = sentence(code(source), " → ", code(target), by)
            records.append(record)
    return make_table([Column("upgrade", "Upgrade", left=True), *columns], records)


def read_rows(page: SuitePage) -> pd.DataFrame:
    """What was measured of stored indexes of a suite's tasks; empty if nothing was."""
    measured = {} if page.out is None else read_retrieval(page.out / RESULTS / RETRIEVAL)
    return measured[page.card.name][0] if page.card.name in measured else pd.DataFrame()


INDEXES = Section(
    page="leaderboard",
    place=30,
    title="Stored indexes",
    applies=lambda page: not read_rows(page).empty,
    template=str(Path(__file__).parent / "indexes.md.jinja"),
    functions={"indexes_table": lambda page: retrieval_table(read_rows(page))},
    on_site=True,
)
