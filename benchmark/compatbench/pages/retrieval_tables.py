"""The leaderboard's table of stored indexes: what is found in a gallery of the old model."""

from __future__ import annotations

import pandas as pd

from compatbench.pages.markdown import NOTHING, code, percent, table
from compatbench.results.retrieval import CEILING, OLD, POOLED

# Columns: a way, with the most images of those that were measured.
SHOWN = {
    OLD: "Old model asks",
    "copied": "Copied",
    "words": "Words",
    "ridge": "Ridge",
    CEILING: "Encoded again",
}


def pooled_rows(frame: pd.DataFrame, queries: str = "texts") -> pd.DataFrame:
    """The rows of the gallery of all test sets, for one kind of queries."""
    return frame[(frame["gallery"] == POOLED) & (frame["queries"] == queries)]


def retrieval_table(frame: pd.DataFrame) -> list[str]:
    """Mean average precision of the new model's texts by upgrade and way, in percent."""
    found = (
        pooled_rows(frame)
        .sort_values("pairs")
        .drop_duplicates(["source", "target", "way"], keep="last")
    )
    rows = []
    for upgrade, of in found.groupby(["source", "target"], sort=False):
        figures = of.set_index("way")["map"].to_dict()
        rows.append([" → ".join(map(code, upgrade))] + [percent(figures.get(way)) for way in SHOWN])
    return table(["Upgrade", *SHOWN.values()], rows) if rows else [NOTHING]
