"""The figures of docs/indexes.md, and its picture, from results/retrieval/.

``compatbench study retrieve`` makes those, by the line that stands in results/retrieval/mini.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from pages import Page

from compatbench.extras.indexes.retrieval_files import CEILING, OLD, ORDER, POOLED, read_retrieval
from compatbench.extras.indexes.retrieval_tables import most_images, pooled_rows
from compatbench.tables.figures.spec_parts import Shown
from compatbench.tables.markdown import code, table
from compatbench.tables.numbers import NOTHING, percent, signed

MEASURE = "python benchmark/research/measured_indexes.py"
COMMAND = "python benchmark/pages.py indexes"
REPOSITORY = Path(__file__).parents[2]
KINDS = ("texts", "images")
REBASIS = "[rebasis](https://github.com/batuhanzorbeyzengin/rebasis)"


def read() -> tuple[pd.DataFrame, dict[str, Any]]:
    return read_retrieval(REPOSITORY / "results" / "retrieval")["mini"]


def make_page() -> Page:
    """The sections of the page as the results give them, and its picture."""
    frame, about = read()
    mini, real = (
        pd.read_csv(Path(__file__).with_name(f"{name}.csv")).fillna({"by": ""})
        for name in ("measured_indexes", "real_vectors")
    )
    sets = [
        f"*{name}*:\n\n{measured_table(rows)}".replace(f", {name} ", " ")
        for name, rows in real.groupby("queries", sort=False)
    ]
    sections = {
        "measured": measured_table(with_most_pairs(mini)),
        "real": "\n\n".join(sets),
        "claims": claims_section(mini, real),
        "recall": "\n\n".join(map(upgrade_section, split(frame))),
        "datasets": "\n".join(by_dataset(frame)),
        "cost": cost_line(about),
        "command": f"```sh slow\n{about['command']}\n{MEASURE}\n{COMMAND}\n```",
    }
    return Page(sections, {"indexes/recall.svg": show_recall(frame)})


def split(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each upgrade, in the order of the file."""
    return [rows for _, rows in frame.groupby(["source", "target"], sort=False)]


def name_way(row: Any) -> str:
    """The way, with the images that its map was fitted on."""
    return f"{row['way']}, {row['pairs']:,} images" if row["pairs"] else row["way"]


def upgrade_section(frame: pd.DataFrame) -> str:
    """Every way of one upgrade, asked by texts and by images."""
    by_texts, by_images = (
        {(row["way"], row["pairs"]): row for row in pooled_rows(frame, kind).to_dict("records")}
        for kind in KINDS
    )
    ceiling, rows = by_texts[CEILING, 0]["map"], []
    for key, texts in by_texts.items():
        shown = [of[name] for of in (texts, by_images[key]) for name in ("recall@1", "map")]
        share = f"{100 * texts['map'] / ceiling:.0f} %"
        rows.append([name_way(texts), *map(percent, shown), share])
    first = frame.iloc[0]
    header = ["Way", "R@1", "mAP", "R@1, images", "mAP, images", "Share"]
    head = f"{code(first['source'])} → {code(first['target'])}:"
    return "\n".join([head, "", *table(header, rows)])


def with_most_pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Of the ways that are fitted on pairs, the rows with the most."""
    return frame.loc[frame["pairs"].isin([0, frame["pairs"].max()])]


def claims_section(*frames: pd.DataFrame) -> str:
    """What others report of ways to go on with an index, and the shares that are measured here."""

    def span(way: str, by: str = "") -> list[str]:
        most = map(with_most_pairs, frames)
        rows = [of.loc[(of["way"] == way) & (of["by"] == by), "share"] for of in most]
        return [f"{shares.min():.0f} to {shares.max():.0f} %" for shares in rows]

    mapped = "queries mapped"
    rows = [
        (
            "95 to 99 % of the recall of encoding again, queries mapped, by an orthogonal map",
            "Drift-Adapter, arXiv:2509.23471",
            span(mapped, "images"),
        ),
        ("the same, by a low-rank map", "Drift-Adapter, with our rank", span(mapped, "low-rank")),
        ("24 to 50 % of it, queries mapped", f"{REBASIS}, text models", span(mapped, "ridge")),
        (
            "a cascade reaches 98 to 100 % of it on near pairs of models, 77 to 99 % on far ones",
            "rebasis",
            span("cascade", "ridge"),
        ),
        ("a naive swap keeps 12.5 %", "rebasis", span("copied")),
        ("rewriting is worth what mapping queries is", "rebasis", span("rewritten", "ridge")),
        ("a map without any pair", "mini-vec2vec, arXiv:2510.02348", span(mapped, "mini-vec2vec")),
    ]
    cells = [[*row[:2], *row[2]] for row in rows]
    return "\n".join(table(["Claim", "By", "Mini", "Real"], cells, (0, 1)))


def measured_table(frame: pd.DataFrame) -> str:
    """Every way, with a column for each upgrade and set of queries, and its verdict.

    Where there are several numbers of pairs, or parts, a cell has the figure of each.
    """
    columns: dict[str, dict[str, str]] = {}
    verdicts: dict[str, str] = {}
    keys = ["source", "target", "queries", "way", "by"]
    # An orthogonal map gives one ranking either way.
    same = (frame["way"] == "queries mapped") & frame["by"].isin(["words", "images"])
    frame = frame.loc[~same]
    for row in frame.groupby(keys, sort=False, as_index=False).agg(list).to_dict("records"):
        way, by = row["way"], row["by"]
        name = f"{way} by {by}" if by and not way.startswith("partly") else way
        shown = " / ".join(map(percent, row["ndcg@10"]))
        if way != OLD:
            shown += f" ({signed(row['over_old_low'][-1])} to {signed(row['over_old_high'][-1])})"
        head = f"{code(row['source'])} → {code(row['target'])}, {row['queries']}"
        columns.setdefault(head, {})[name] = shown
        verdicts[head] = f"*{row['verdict'][0]}*"
    # Ways that need equal widths are not in every column.
    names = max(columns.values(), key=len)
    cells = [[name, *(of.get(name, NOTHING) for of in columns.values())] for name in names]
    return "\n".join(table(["Way", *columns], [*cells, ["*verdict*", *verdicts.values()]]))


def by_dataset(frame: pd.DataFrame) -> list[str]:
    """On how many of the single galleries each way is better than what it is compared with."""
    single = frame.loc[(frame["queries"] == "texts") & (frame["gallery"] != POOLED)]
    keys = ["source", "target", "gallery"]
    wide = most_images(single).pivot(index=keys, columns="way", values="map")
    rows = []
    for _, of in wide.groupby(level=[0, 1], sort=False):
        first = of.reset_index().iloc[0]
        best = of[["words", "ridge"]].max(axis=1)
        rows.append(
            [
                f"{code(first['source'])} → {code(first['target'])}",
                count(of["words"] > of["copied"]) if "copied" in of else NOTHING,
                count(of["ridge"] > of["words"]),
                count(best > of[OLD]),
                count(of[CEILING] > of[OLD]),
            ]
        )
    header = [
        "Upgrade",
        "Words over copied",
        "Ridge over words",
        "Better of both over the old model",
    ]
    return table([*header, "Encoded again over the old model"], rows)


def count(wins: pd.Series) -> str:
    return f"{int(wins.sum())} of {len(wins)}"


def cost_line(about: dict[str, Any]) -> str:
    """CPU seconds per million vectors."""
    seconds = about["cpu_seconds_per_million"]
    least, most = min(seconds["encoded"].values()), max(seconds["encoded"].values())
    return (
        f"To encode a million images takes {least:,.0f} to {most:,.0f} CPU seconds, and to "
        f"map a million vectors in memory {seconds['mapped']:,.1f}."
    )


def show_recall(frame: pd.DataFrame) -> Shown:
    """A panel for each upgrade; of ways with images, that with the most.

    The lines are the old index as it was, and one that is made anew.
    """
    marks = [
        {
            "panel": f"→ {rows['target'].iloc[0]}",
            "series": f"asked by {kind}",
            "way": row["way"],
            "place": ORDER.index(row["way"]),
            "map": round(float(row["map"]), 2),
        }
        for rows in split(frame)
        for kind in KINDS
        for row in most_images(pooled_rows(rows, kind)).to_dict("records")
    ]
    names = [f"asked by {kind}" for kind in KINDS]
    return Shown(marks, {"series": names, "old": OLD, "anew": CEILING})
