"""The leaderboard's table of stored indexes: what is found in a gallery of the old model."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from compatbench.results.retrieval import CEILING, OLD, POOLED, read_retrieval
from compatbench.results.store import RESULTS, RETRIEVAL
from compatbench.tables.markdown import NOTHING, code, percent, table

# Columns: a way, with the most images of those that were measured.
SHOWN = {
    OLD: "Old model",
    "copied": "Copied",
    "words": "Words",
    "ridge": "Ridge",
    CEILING: "Encoded again",
}
ABOUT = """\
For owners of an index of image embeddings: mean average precision in percent when class names
search the test images of all tasks. First the old model in its own index, then the new model in the
same index: copied unchanged, ported by `compatbench port` (*words* needs no image, *ridge* has the
most unlabelled images that were tried), or encoded again. [docs/indexes.md](docs/indexes.md)"""


def read_indexes(out: Path) -> dict[str, list[str]]:
    """What the results in a folder say of stored indexes, as Markdown, by suite."""
    found = read_retrieval(out / RESULTS / RETRIEVAL)
    return {suite: [ABOUT, "", *retrieval_table(frame)] for suite, (frame, _) in found.items()}


def pooled_rows(frame: pd.DataFrame, queries: str = "texts") -> pd.DataFrame:
    """The rows of the gallery of all test sets, for one kind of queries."""
    return frame.loc[(frame["gallery"] == POOLED) & (frame["queries"] == queries)]


def most_images(frame: pd.DataFrame) -> pd.DataFrame:
    """Each way once for each upgrade, gallery and kind of queries, with the most images."""
    key = ["source", "target", "gallery", "queries", "way"]
    return frame.sort_values("pairs", kind="stable").drop_duplicates(key, keep="last")


def retrieval_table(frame: pd.DataFrame) -> list[str]:
    """Mean average precision of the new model's texts by upgrade and way, in percent.

    Where captions were asked for, too, they have rows of their own.
    """
    rows = []
    for queries, by in {"texts": "", "captions": ", by captions"}.items():
        pooled = most_images(pooled_rows(frame, queries))
        for _, of in pooled.groupby(["source", "target"], sort=False):
            first, figures = of.iloc[0], dict(zip(of["way"], of["map"], strict=True))
            upgrade = f"{code(first['source'])} → {code(first['target'])}{by}"
            rows.append([upgrade, *(percent(figures.get(way)) for way in SHOWN)])
    return table(["Upgrade", *SHOWN.values()], rows) if rows else [NOTHING]
