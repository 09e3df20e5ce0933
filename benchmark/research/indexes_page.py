"""The figures of docs/indexes.md, and its picture, from results/retrieval/.

``compatbench study retrieve`` makes those, by the line that stands in results/retrieval/mini.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from pages import Page

from compatbench.extras.indexes.index_verdicts import show_way
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
    measured = pd.read_csv(Path(__file__).with_name("measured_indexes.csv"))
    sections = {
        "measured": measured_section(measured),
        "claims": claims_section(measured),
        "recall": "\n\n".join(map(upgrade_section, split(frame))),
        "datasets": "\n".join(by_dataset(frame)),
        "cost": "\n".join(cost_lines(about)),
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
        both = texts, by_images[key]
        shown = [float(row[name]) for row in both for name in ("recall@1", "recall@10", "map")]
        share = f"{100 * texts['map'] / ceiling:.0f} %"
        rows.append([name_way(texts), *map(percent, shown), share])
    first = frame.iloc[0]
    header = ["Way", "R@1", "R@10", "mAP", "R@1, images", "R@10, images", "mAP, images", "Share"]
    head = f"{code(first['source'])} → {code(first['target'])}:"
    return "\n".join([head, "", *table(header, rows)])


def with_most_pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Of the ways that are fitted on pairs, the rows with the most."""
    return frame.loc[frame["pairs"].isin([0, frame["pairs"].max()])]


def claims_section(frame: pd.DataFrame) -> str:
    """What others report of ways to go on with an index, and the shares that are measured here."""
    most = with_most_pairs(frame)

    def span(way: str, by: str = "") -> str:
        shares = most.loc[(most["way"] == way) & most["by"].fillna("").isin([by])]["share"]
        return f"{shares.min():.0f} to {shares.max():.0f} %"

    mapped, both = "queries mapped", ("rewritten", "queries mapped")
    ridge = [span(way, "ridge") for way in both]
    vec2vec = [span(way, "mini-vec2vec") for way in both]
    rows = [
        (
            "95 to 99 % of the recall of encoding again, queries mapped",
            "Drift-Adapter, arXiv:2509.23471",
            f"{span(mapped, 'images')} (`images`), {span(mapped, 'low-rank')} (`low-rank`): its "
            "first two maps, with our rank; its small network was not built, and no code of the "
            "authors was found",
        ),
        (
            "24 to 50 % of it in another harness",
            f"{REBASIS}, text models",
            f"the same, and {ridge[1]} by `ridge`; its 62 migrations were not run",
        ),
        (
            "a cascade reaches 98 to 100 % on near pairs of models, 77 to 99 % on far ones",
            "rebasis",
            f"{span('cascade', 'ridge')} by 50 candidates and more, which for all queries together "
            "are most of so small an index",
        ),
        (
            "a naive swap keeps 12.5 %",
            "rebasis",
            f"{span('copied')}, by whether the new model's joint space began as a copy of the old",
        ),
        (
            "rewriting and mapping queries are worth the same",
            "rebasis, 0.727 and 0.719",
            f"an orthogonal map gives one ranking either way; by `ridge` {ridge[0]} and {ridge[1]}",
        ),
        (
            "a map without any pair",
            "mini-vec2vec, arXiv:2510.02348",
            f"{vec2vec[0]} rewritten, {vec2vec[1]} with queries mapped",
        ),
    ]
    lines = [
        "| claim | by | here, nDCG@10 as a share of that of encoding again |",
        "| --- | --- | --- |",
    ]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def measured_section(frame: pd.DataFrame) -> str:
    """Every way of every upgrade, with the most pairs, asked by texts and by images."""
    lines = [
        "nDCG@10; its share of that of encoding again; and between brackets what is gained over",
        "the old model, a 95 % interval over queries:",
    ]
    for (source, target), rows in frame.groupby(["source", "target"], sort=False):  # type: ignore[misc]
        most = with_most_pairs(rows).fillna({"by": ""})
        body: dict[str, dict[str, str]] = {}
        for row in most.to_dict("records"):
            ends = [row[f"over_old_{end}"] for end in ("low", "high")]
            gain = NOTHING if row["way"] == OLD else " to ".join(map(signed, ends))
            shown = f"{percent(row['ndcg@10'])}, {row['share']:.0f} % ({gain})"
            name = show_way(
                {"by": "", **{str(key): value for key, value in row.items() if not pd.isna(value)}}
            )
            body.setdefault(name, {})[row["queries"]] = shown
        header = ["Way", *(f"asked by {kind}" for kind in KINDS)]
        cells = [[name, *(of.get(kind, NOTHING) for kind in KINDS)] for name, of in body.items()]
        verdicts = rows.drop_duplicates("queries").set_index("queries")["verdict"]
        said = "; ".join(f"asked by {kind}: *{verdicts[kind]}*" for kind in KINDS)
        lines += [
            "",
            f"{code(str(source))} → {code(str(target))} ({said}):",
            "",
            *table(header, cells),
        ]
    return "\n".join(lines)


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


def cost_lines(about: dict[str, Any]) -> list[str]:
    """CPU seconds per million vectors."""
    seconds = about["cpu_seconds_per_million"]
    rows = [
        [f"encode a million images with {code(name)}", f"{encoding:,.0f}"]
        for name, encoding in seconds["encoded"].items()
    ]
    rows.append(["map a million vectors, in memory", f"{seconds['mapped']:,.1f}"])
    return table(["", "CPU seconds"], rows)


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
