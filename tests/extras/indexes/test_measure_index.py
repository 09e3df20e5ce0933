"""An index of any embedding: every way beside a naive path, what is read, said and refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import output_of
from safetensors.numpy import save_file
from scipy.linalg import orthogonal_procrustes

import compatbench as cb
from compatbench.errors import CompatbenchError
from compatbench.extras.indexes import measure_index as module
from compatbench.extras.indexes.index_maps import fit_map

ITEMS, QUERIES, PAIRS = 240, 60, 40


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class World:
    """Things of some classes, seen by a poor old model and by a better new one of ``width``."""

    def __init__(self, width: int = 8, noise: float = 0.8) -> None:
        generator = np.random.default_rng(5)
        centres = generator.standard_normal((6, 8))
        self.labels, self.asked = (generator.integers(0, 6, n) for n in (ITEMS, QUERIES))
        views = [generator.standard_normal((8, size)) for size in (8, width)]
        numbers = np.concatenate([self.labels, self.asked])
        things = centres[numbers] + 0.9 * generator.standard_normal((len(numbers), 8))
        seen = [
            things @ view + much * generator.standard_normal((len(things), view.shape[1]))
            for view, much in zip(views, (noise * 2, noise / 2), strict=True)
        ]
        self.old, self.new = (side[:ITEMS].astype(np.float32) for side in seen)
        self.queries = tuple(side[ITEMS:].astype(np.float32) for side in seen)

    def measure(self, **changes):
        asked = {"queries": self.queries, "labels": self.labels, "query_labels": self.asked}
        asked |= {"pairs": [PAIRS], "seeds": [1]}
        return cb.measure_index(self.old, self.new, **asked | changes)


def naive_ndcg(scores: np.ndarray, relevant: np.ndarray) -> float:
    """The mean nDCG@10 of queries, in percent; an item that left scores −∞."""
    discounts, values = 1 / np.log2(np.arange(2, 12)), []
    for of_query, good in zip(scores, relevant, strict=True):
        order = np.argsort(-of_query, kind="stable")[:10]
        best = min(10, int(good.sum()))
        values.append((good[order] @ discounts) / discounts[:best].sum())
    return 100 * float(np.mean(values))


def test_every_way_is_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    measured = world.measure()
    frame = measured.frame.set_index(["way", "by", "at"])["ndcg@10"]
    left = module._choose_pairs(np.zeros(ITEMS, bool), None, PAIRS)
    drawn = left[np.random.default_rng(1).permutation(len(left))[:PAIRS]]
    gone = np.isin(np.arange(ITEMS), left)
    relevant = (world.labels == world.asked[:, None]) & ~gone
    old, new, asked_old, asked_new = map(unit, (world.old, world.new, *world.queries))

    def ndcg(scores: np.ndarray) -> float:
        return naive_ndcg(np.where(gone, -np.inf, scores), relevant)

    turn = orthogonal_procrustes(old[drawn], new[drawn])[0]
    drift = (new[drawn] - old[drawn]).mean(0)
    wanted = {
        ("old model", "", 0): asked_old @ old.T,
        ("copied", "", 0): asked_new @ old.T,
        ("rewritten", "images", 0): asked_new @ (old @ turn).T,
        ("queries mapped", "images", 0): (asked_new @ turn.T) @ old.T,
        ("queries mapped", "drift", 0): unit(asked_new - drift) @ old.T,
        ("re-encoded", "", 0): asked_new @ new.T,
    }
    # The ways that are built on ridge, whose map is had from its own rows.
    there = fit_map("ridge", None, (old[drawn], new[drawn]))
    back = fit_map("ridge", None, (new[drawn], old[drawn]))
    mapped, fresh = back(asked_new), asked_new @ new.T
    by_query = np.where(gone, -np.inf, mapped @ old.T)
    first = np.argsort(np.argsort(-by_query, axis=1), axis=1) < 50
    near = np.sort(old @ unit(back(new[drawn])).T, axis=1)[:, -10:].mean(1)
    moved = np.random.default_rng(1).random(ITEMS)
    moved = moved < np.quantile(moved, 0.5)
    wanted |= {
        ("rewritten", "ridge", 0): asked_new @ there(old).T,
        ("queries mapped", "ridge", 0): by_query,
        ("queries mapped, CSLS", "ridge", 0): 2 * by_query - near,
        ("cascade", "ridge", 50): np.where(first, 10 + fresh, by_query),
        ("partly re-encoded, both served", "ridge", 50): np.where(moved, fresh, by_query),
        ("partly rewritten, both served", "ridge", 50): np.where(
            moved, asked_new @ there(old).T, by_query
        ),
        ("partly re-encoded, new query", "ridge", 50): np.where(moved, fresh, asked_new @ old.T),
    }
    for way, scores in wanted.items():
        assert frame[way] == pytest.approx(ndcg(scores), abs=1e-3), way
    cascade = measured.frame.set_index(["way", "at"]).loc[("cascade", 50)]
    looked_at = np.unique(np.nonzero(first)[1])
    assert cascade["encode"] == PAIRS + round(len(looked_at) * ITEMS / (ITEMS - len(left)))
    assert cascade["per_query"] == pytest.approx(len(looked_at) / QUERIES)
    assert cascade["encoded"] == pytest.approx(100 * (1 - len(looked_at) / (50 * QUERIES)))


def test_prices_and_intervals_are_of_the_whole_index() -> None:
    world = World(width=12)
    frame = world.measure().frame.set_index(["way", "at"])
    assert ("copied", 0) not in frame.index  # of other widths nothing is left as it is
    assert not any("new query" in way for way, _ in frame.index)
    assert frame.loc[("re-encoded", 0), "encode"] == ITEMS
    assert frame.loc[("re-encoded", 0), "write"] == ITEMS * 12 * 4
    assert frame.loc[("partly re-encoded, both served", 10), "encode"] == PAIRS + ITEMS // 10
    # Every item is looked at by some query, so that it is no cheaper than to encode all.
    assert frame.loc[("cascade", 50), "encode"] == PAIRS + ITEMS
    assert {*frame.loc[("rewritten", 0), "write"]} == {ITEMS * 12 * 4}
    assert {*frame.loc[("queries mapped", 0), "write"]} == {0}
    assert (frame["ndcg@10_low"] <= frame["ndcg@10"]).all()
    assert frame.loc[("re-encoded", 0), "share"] == pytest.approx(100)


def test_the_verdict_follows_the_intervals() -> None:
    better = World().measure()
    assert better.verdict in ("cascade", "re-encoded", "rewritten", "queries mapped")
    assert better.frame.loc[better.chosen, "over_old_low"] > 0
    world = World()
    world.old, world.new, world.queries = world.new, world.old, world.queries[::-1]
    worse = world.measure(pairs=[0])
    assert (worse.verdict, worse.chosen) == ("old model", None)
    assert str(worse).startswith("stay with the old model.")
    world.new, world.queries = world.old, (world.queries[0],) * 2
    assert world.measure(pairs=[0]).verdict == "cannot tell"
    unknown = World().measure(labels=None, query_labels=None)
    assert (unknown.verdict, unknown.measure) == ("cannot tell", "recall@10")
    again = unknown.frame.set_index("way").loc["re-encoded"]
    assert again["recall@10"] == 100


def test_words_that_are_queried_are_left_out() -> None:
    world = World()
    words = [vectors[:30] + 0.1 for vectors in (world.old, world.new)]
    more = [np.concatenate(both) for both in zip(words, world.queries, strict=True)]
    wanted, frame = (world.measure(words=(old, new), pairs=[0]).frame for old, new in (words, more))
    assert wanted.drop(columns="seconds").equals(frame.drop(columns="seconds"))
    assert {"words"} < {*frame["by"]}


def test_rows_of_the_index_ask_where_no_queries_are_given() -> None:
    world = World()
    measured = world.measure(queries=None, query_labels=None)
    left = module._choose_pairs(np.arange(ITEMS) % 2 == 0, None, PAIRS)
    assert (measured.queries, measured.items) == (ITEMS // 2, ITEMS - len(left))
    old, asked = unit(world.old), np.arange(0, ITEMS, 2)
    scores = old[asked] @ old.T
    scores[:, left] = scores[np.arange(len(asked)), asked] = -np.inf
    same = (world.labels == world.labels[asked][:, None]) & ~np.isin(np.arange(ITEMS), left)
    same[np.arange(len(asked)), asked] = False
    found = measured.frame.set_index("way").loc["old model", "ndcg@10"]
    assert found == pytest.approx(naive_ndcg(scores, same), abs=1e-3)


def test_a_command_reads_every_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    monkeypatch.chdir(tmp_path)
    world = World()
    pq.write_table(pa.table({"v": [*world.old]}), "old.parquet")
    save_file({"vectors": world.new}, "new.safetensors")
    for name, vectors in zip(("old-q", "new-q"), world.queries, strict=True):
        np.save(f"{name}.npy", vectors)
    np.save("nan.npy", world.old * np.nan)
    rows = [(q, i) for q in range(QUERIES) for i in np.flatnonzero(world.labels == world.asked[q])]
    pd.DataFrame(rows, columns=["query", "item"]).to_csv("q.csv", index=False)
    qrels = [f"{query} 0 {item} 1\n" for query, item in rows]
    qrels.append(f"0 0 {np.argmax(world.labels != world.asked[0])} 0")  # judged, and not relevant
    Path("qrels.txt").write_text("".join(qrels))
    for name, labels in {"classes": world.labels, "asked": world.asked}.items():
        Path(f"{name}.txt").write_text("".join(f"a {n}\n" for n in labels))
    words = ["study index", "old.parquet", "new.safetensors", "--queries", "old-q.npy", "new-q.npy"]
    words += ["--pairs", f"{PAIRS}", "--seeds", "1"]
    before = sorted(tmp_path.iterdir())
    wanted = world.measure(labels=None, query_labels=None, relevant="q.csv")
    for relevant in ("qrels.txt", "q.csv"):
        said = json.loads(output_of(*words, "--relevant", relevant, "--json"))
        assert said["verdict"] == wanted.verdict
        rows = pd.DataFrame(said["ways"])["ndcg@10"]
        assert np.allclose(rows, wanted.frame["ndcg@10"], atol=1e-4)
    labelled = output_of(*words, "--labels", "classes.txt", "--query-labels", "asked.txt")
    assert "cascade@50 by ridge" in labelled
    assert max(map(len, labelled.splitlines())) <= 80
    with pytest.raises(CompatbenchError, match=r"nan\.npy: the vector in row 0 has a NaN"):
        output_of("study index", "nan.npy", *words[2:6])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"new": np.ones((3, 8))}, "has 240 rows and the new vectors 3"),
        ({"old": np.full((ITEMS, 8), np.nan)}, "the old vectors: the vector in row 0 has a NaN"),
        ({"new": np.eye(ITEMS, 8)}, "row 8 is all zeros; drop it, on both models"),
        ({"old": np.full((ITEMS, 8), np.inf, np.float16)}, "row 0 has a NaN or an infinite"),
        ({"old": np.ones(4)}, "an index is a matrix"),
        ({"queries": (np.ones((5, 8)), np.ones((4, 8)))}, "queries of shapes"),
        ({"queries": (np.ones((5, 7)), np.ones((5, 8)))}, "queries of width 7, .* have 8"),
        ({"labels": [1, 2]}, "the labels of the items has 2 values for 240 vectors"),
        ({"query_labels": None}, "give the labels of the queries, too"),
        ({"query_labels": ["z"] * QUERIES}, "no query has a label of an item"),
        ({"labels": None}, "give the labels of the items, too"),
        ({"relevant": pd.DataFrame({"q": [0], "i": [1]})}, "relevant items or labels, one of"),
        ({"qrels": [("0", "9", 1)], "queries": None}, "of queries: give the queries, too"),
        ({"pairs": [3]}, "numbers of at least 8"),
        ({"pairs": [500]}, "--pairs 500: there are 120; give 120 at most"),
        ({"seeds": []}, "and a seed"),
        ({"words": World().queries}, "words: give 8 or more that are not"),
        ({"old": "none.npy"}, "cannot read the index none.npy"),
        ({"paired": "leak"}, "1 of the pairs are also queried, the first in row 2"),
        ({"qrels": [("0", "900", 1)]}, "no item '900' among 240"),
        ({"qrels": [("x", "9", 1)]}, "no query 'x' among 60"),
        ({"qrels": [("0", "9", "good")]}, "a grade is no number: .*good"),
        ({"qrels": [("0", "9", 0)]}, "has no relevant item"),
    ],
)
def test_what_cannot_be_is_one_line(changes: dict, message: str) -> None:
    world, changes = World(), {**changes}
    world.old, world.new = changes.pop("old", world.old), changes.pop("new", world.new)
    if "paired" in changes:
        stock = [vectors + 0.1 for vectors in (world.old[:9], world.new[:9])]
        stock[0][2], stock[1][2] = world.queries[0][7], world.queries[1][7]
        changes["paired"] = tuple(stock)
    if "qrels" in changes:
        changes |= {"relevant": pd.DataFrame(changes.pop("qrels"))}
        changes |= {"labels": None, "query_labels": None}
    with pytest.raises(CompatbenchError, match=message) as caught:
        world.measure(**changes)
    assert "\n" not in str(caught.value)


def test_it_runs_where_torch_is_never_imported() -> None:
    code = (
        "import sys, numpy as np, compatbench as cb\n"
        "sys.modules['torch'] = None\n"
        "draw = np.random.default_rng(0).standard_normal\n"
        "found = cb.measure_index(draw((99, 4)), draw((99, 6)), queries=(draw((9, 4)), "
        "draw((9, 6))), pairs=[16], seeds=[1])\n"
        "print(found.verdict, sorted({'sklearn', 'open_clip', 'torchvision'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "cannot tell []"
