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
MAPPED = "queries mapped"
# What others report of ways to go on with an index: the claim, whose it is, our way and its map.
CLAIMS = (
    (
        "95 to 99 % of the recall of encoding again, queries mapped, by an orthogonal map",
        *("Drift-Adapter, arXiv:2509.23471", MAPPED, "images"),
    ),
    ("the same, by a low-rank map", "Drift-Adapter, with our rank", MAPPED, "low-rank"),
    ("24 to 50 % of it, queries mapped", f"{REBASIS}, text models", MAPPED, "ridge"),
    (
        "a cascade reaches 98 to 100 % of it on near pairs of models, 77 to 99 % on far ones",
        *("rebasis", "cascade", "ridge"),
    ),
    ("a naive swap keeps 12.5 %", "rebasis", "copied", ""),
    ("rewriting is worth what mapping queries is", "rebasis", "rewritten", "ridge"),
    ("a map without any pair", "mini-vec2vec, arXiv:2510.02348", MAPPED, "mini-vec2vec"),
)


def make_page() -> Page:
    """The sections of the page as the results give them, and its picture."""
    frame, about = read_retrieval(REPOSITORY / "results" / "retrieval")["mini"]
    mini, real = (
        pd.read_csv(Path(__file__).with_name(f"{name}.csv")).fillna({"by": ""})
        for name in ("measured_indexes", "real_vectors")
    )
    sets = [
        f"*{name}*:\n\n{measured_table(rows)}".replace(f", {name} ", " ")
        for name, rows in real.groupby("queries", sort=False)
    ]
    upgrades = [rows for _, rows in frame.groupby(["source", "target"], sort=False)]
    sections = {
        "measured": measured_table(with_most_pairs(mini)),
        "real": "\n\n".join(sets),
        "claims": claims_table(mini, real),
        "recall": "\n\n".join(map(upgrade_section, upgrades)),
        "datasets": by_dataset(upgrades),
        "cost": cost_line(about["cpu_seconds_per_million"]),
        "command": f"```sh slow\n{about['command']}\n{MEASURE}\n{COMMAND}\n```",
    }
    return Page(sections, {"indexes/recall.svg": show_recall(upgrades)})


def name_upgrade(rows: pd.DataFrame) -> str:
    """The upgrade that rows are of."""
    return " → ".join(code(rows[side].iloc[0]) for side in ("source", "target"))


def upgrade_section(frame: pd.DataFrame) -> str:
    """Every way of one upgrade, asked by texts and by images."""
    key, shown = ["way", "pairs"], ["recall@1", "map"]
    texts, images = (pooled_rows(frame, kind).set_index(key)[shown] for kind in KINDS)
    shares = 100 * texts["map"] / texts.loc[(CEILING, 0), "map"]
    rows = [
        [
            f"{way}, {pairs:,} images" if pairs else way,
            *map(percent, (*texts.loc[way, pairs], *images.loc[way, pairs])),
            f"{shares[way, pairs]:.0f} %",
        ]
        for way, pairs in texts.index
    ]
    header = ["Way", "R@1", "mAP", "R@1, images", "mAP, images", "Share"]
    return "\n".join([f"{name_upgrade(frame)}:", "", *table(header, rows)])


def with_most_pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Of the ways that are fitted on pairs, the rows with the most."""
    return frame.loc[frame["pairs"].isin([0, frame["pairs"].max()])]


def claims_table(*frames: pd.DataFrame) -> str:
    """The claims, and the shares that are measured here."""
    shares = [
        {key: f"{of.min():.0f} to {of.max():.0f} %" for key, of in groups}
        for groups in (with_most_pairs(of).groupby(["way", "by"])["share"] for of in frames)
    ]
    rows = [[claim, by, *(of[way, fitted] for of in shares)] for claim, by, way, fitted in CLAIMS]
    return "\n".join(table(["Claim", "By", "Mini", "Real"], rows, (0, 1)))


def measured_table(frame: pd.DataFrame) -> str:
    """Every way, with a column for each upgrade and set of queries, and its verdict.

    Where there are several numbers of pairs, or parts, a cell has the figure of each.
    """
    # An orthogonal map gives one ranking either way.
    same = (frame["way"] == MAPPED) & frame["by"].isin(["words", "images"])
    columns, last = dict[str, dict[str, str]](), ["*verdict*"]
    for (*_, queries), of_upgrade in frame.loc[~same].groupby(
        ["source", "target", "queries"], sort=False
    ):
        cells = columns[f"{name_upgrade(of_upgrade)}, {queries}"] = {}
        for key, rows in of_upgrade.groupby(["way", "by"], sort=False):
            way, by = map(str, tuple(key))  # type: ignore[arg-type]
            name = f"{way} by {by}" if by and not way.startswith("partly") else way
            cells[name] = " / ".join(map(percent, rows["ndcg@10"]))
            if way != OLD:
                low, high = (signed(rows[f"over_old_{end}"].iloc[-1]) for end in ("low", "high"))
                cells[name] += f" ({low} to {high})"
        last.append(f"*{of_upgrade['verdict'].iloc[0]}*")
    # Ways that need equal widths are not in every column.
    names = max(columns.values(), key=len)
    rows = [[name, *(of.get(name, NOTHING) for of in columns.values())] for name in names]
    return "\n".join(table(["Way", *columns], [*rows, last]))


def by_dataset(upgrades: list[pd.DataFrame]) -> str:
    """On how many of the single galleries each way is better than what it is compared with."""
    rows = []
    for frame in upgrades:
        single = frame.loc[(frame["queries"] == "texts") & (frame["gallery"] != POOLED)]
        of = most_images(single).pivot(index="gallery", columns="way", values="map")
        better = [
            of["words"] > of["copied"] if "copied" in of else None,
            of["ridge"] > of["words"],
            of[["words", "ridge"]].max(axis=1) > of[OLD],
            of[CEILING] > of[OLD],
        ]
        counts = [NOTHING if wins is None else f"{wins.sum()} of {len(wins)}" for wins in better]
        rows.append([name_upgrade(frame), *counts])
    header = [
        "Upgrade",
        "Words over copied",
        "Ridge over words",
        "Better of both over the old model",
    ]
    return "\n".join(table([*header, "Encoded again over the old model"], rows))


def cost_line(seconds: dict[str, Any]) -> str:
    """CPU seconds per million vectors."""
    costs = seconds["encoded"].values()
    return (
        f"To encode a million images takes {min(costs):,.0f} to {max(costs):,.0f} CPU seconds, and "
        f"to map a million vectors in memory {seconds['mapped']:,.1f}."
    )


def show_recall(upgrades: list[pd.DataFrame]) -> Shown:
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
        for rows in upgrades
        for kind in KINDS
        for row in most_images(pooled_rows(rows, kind)).to_dict("records")
    ]
    names = [f"asked by {kind}" for kind in KINDS]
    return Shown(marks, {"series": names, "old": OLD, "anew": CEILING})
