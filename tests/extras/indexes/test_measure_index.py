"""``measure_index`` next to naive formulas: search, recall, nDCG, verdict, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import output_of
from extras.indexes.worlds import ITEMS, QUERIES, World, unit
from sklearn.metrics import ndcg_score

import compatbench as cb
from compatbench.errors import CompatbenchError
from compatbench.extras.indexes import rankings, vectors
from compatbench.extras.indexes.alignment import shared_neighbours
from compatbench.extras.indexes.index_maps import fit_map
from compatbench.extras.indexes.measure_index import choose_pairs
from compatbench.extras.indexes.relevance import ByGrade
from compatbench.results.estimate import estimate


def naive_recall(scores: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    values = []
    for of_query, grades in zip(scores, relevant, strict=True):
        first = np.argsort(-of_query, kind="stable")[:k]
        values.append((grades[first] > 0).sum() / (grades > 0).sum())
    return np.array(values)


def test_options_equal_naive_formulas() -> None:
    world = World()
    measured = world.measure(k=5)
    left_out = choose_pairs(ITEMS, None, None)
    assert len(left_out) == ITEMS // 2
    kept = np.setdiff1d(np.arange(ITEMS), left_out)
    old = unit(world.old)
    new = unit(world.new)
    asked_old, asked_new = map(unit, world.queries)
    fitted = fit_map(old[left_out].astype(np.float32), new[left_out].astype(np.float32))
    scores = {
        "old model": asked_old @ old[kept].T,
        "mapped": asked_new @ fitted(old[kept]).T,
        "re-encoded": asked_new @ new[kept].T,
    }
    relevant = (world.labels[kept] == world.asked[:, None]).astype(float)
    frame = measured.frame.set_index("option")
    gains = {}
    for option, of_option in scores.items():
        ndcg = 100 * np.array(
            [ndcg_score([r], [s], k=10) for r, s in zip(relevant, of_option, strict=True)]
        )
        gains[option] = ndcg
        assert frame.loc[option, "ndcg@10"] == pytest.approx(ndcg.mean(), abs=1e-4)
        for k in (5, 10):
            recall = 100 * naive_recall(of_option, relevant, k)
            assert frame.loc[option, f"recall@{k}"] == pytest.approx(recall.mean(), abs=1e-4)
    for option in ("mapped", "re-encoded"):
        gain = estimate(gains[option] - gains["old model"])
        assert gain is not None
        row = frame.loc[option, ["gain", "gain_low", "gain_high"]].astype(float)
        assert row.to_list() == pytest.approx([gain.value, gain.low, gain.high], abs=1e-3)


def test_search_in_blocks_is_a_stable_sort() -> None:
    generator = np.random.default_rng(1)
    items = generator.integers(-2, 3, (90, 3)).astype(np.float32)  # many ties
    asked = generator.integers(-2, 3, (20, 3)).astype(np.float32)
    itself = generator.integers(0, 90, 20)
    left_out = np.arange(90) % 7 == 0
    scores = asked @ items.T
    scores[np.arange(20), itself] = -np.inf
    scores[:, left_out] = -np.inf
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :8]
    for size in (4, 33, 90):
        blocks = [(first, items[first : first + size]) for first in range(0, 90, size)]
        found = rankings.search(asked, blocks, 8, left_out=left_out, itself=itself)
        assert (found == expected).all()
    few = rankings.search(asked, [(0, items[:3])], 5)
    assert (few[:, 3:] == -1).all()


def test_graded_relevance_equals_sklearn() -> None:
    generator = np.random.default_rng(2)
    table = pd.DataFrame(
        {
            "query": np.repeat(np.arange(15), 6),
            "item": np.concatenate([generator.permutation(40)[:6] for _ in range(15)]),
            "grade": generator.integers(1, 4, 90).astype(float),
        }
    )
    relevance = ByGrade(table, 15)
    grades = np.zeros((15, 40))
    grades[table["query"], table["item"]] = table["grade"]
    scores = generator.standard_normal((15, 40))
    ranked = np.argsort(-scores, axis=1)
    # sklearn's gains are linear, as ours are.
    expected = [ndcg_score([g], [s], k=10) for g, s in zip(grades, scores, strict=True)]
    assert rankings.ndcg(ranked, relevance) == pytest.approx(expected)
    assert rankings.recall(ranked, relevance, 7) == pytest.approx(naive_recall(scores, grades, 7))


@pytest.mark.parametrize(
    ("world", "verdict", "sentence"),
    [
        (World(), "re-encode", "Re-encode: it gains +"),
        (
            World(old_noise=0.2, new_noise=0.2, query_noise=3),
            "map the old index",
            "Map the old index: it gains +",
        ),
        (World(old_noise=0.1, new_noise=4), "keep the old model", "both alternatives are worse"),
        (World(queries=101, items=210, old_noise=0.5), "cannot tell", "queries would decide"),
    ],
)
def test_verdict_follows_paired_intervals(world: World, verdict: str, sentence: str) -> None:
    measured = world.measure()
    assert measured.verdict == verdict
    assert sentence in measured.sentence
    assert str(measured).startswith(measured.sentence)
    table = str(measured).split("\n\n")[1]
    assert max(len(line) for line in table.splitlines()) <= 80
    gains = measured.frame.set_index("option")
    if verdict == "map the old index":
        assert gains.loc["mapped", "gain_low"] > 0


def test_without_relevance_neighbours_of_the_new_model_count_and_nothing_is_decided() -> None:
    world = World()
    measured = world.measure(labels=None, query_labels=None)
    frame = measured.frame.set_index("option")
    assert measured.verdict == "cannot tell"
    assert "no relevance is known" in measured.sentence
    assert frame.loc["re-encoded", "recall@10"] == 100
    kept = np.setdiff1d(np.arange(ITEMS), choose_pairs(ITEMS, None, None))
    nearest = [
        np.argsort(-(unit(asked) @ unit(side[kept]).T), axis=1)[:, :10]
        for asked, side in zip(world.queries, (world.old, world.new), strict=True)
    ]
    shared = [len({*old} & {*new}) / 10 for old, new in zip(*nearest, strict=True)]
    assert frame.loc["old model", "recall@10"] == pytest.approx(100 * np.mean(shared), abs=1e-4)


def test_rows_of_the_index_are_queries_if_there_are_no_others() -> None:
    world = World()
    measured = world.measure(queries=None, query_labels=None)
    assert measured.queries == ITEMS // 2
    assert measured.items == ITEMS // 2  # the others are pairs
    queries = unit(world.new)[::2]
    scores = queries @ queries.T
    np.fill_diagonal(scores, -np.inf)
    relevant = (world.labels[::2] == world.labels[::2, None]) & ~np.eye(len(queries), dtype=bool)
    expected = 100 * naive_recall(scores, relevant, 10).mean()
    frame = measured.frame.set_index("option")
    assert frame.loc["re-encoded", "recall@10"] == pytest.approx(expected, abs=1e-4)


def test_command_reads_files_of_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vectors, "BLOCK_BYTES", 1000)
    world = World()
    np.save("old.npy", world.old)
    frame = pd.DataFrame({"id": range(ITEMS), "embedding": [*world.new]})
    frame.to_parquet("new.parquet")
    for name, side in zip(("q-old.npy", "q-new.npy"), world.queries, strict=True):
        np.save(name, side)
    Path("labels.txt").write_text("".join(f"{label}\n" for label in world.labels))
    pd.DataFrame({"n": range(QUERIES), "label": world.asked}).to_csv("asked.csv", index=False)
    given = ("index measure", "old.npy", "new.parquet", "--queries", "q-old.npy", "q-new.npy")
    by_label = ("--labels", "labels.txt", "--query-labels", "asked.csv")
    shown = json.loads(output_of(*given, *by_label, "--json"))
    expected = world.measure()
    assert shown["verdict"] == expected.verdict
    values = [row["ndcg@10"] for row in shown["options"]]
    assert values == pytest.approx(expected.frame["ndcg@10"].tolist(), abs=1e-3)
    assert expected.sentence in output_of(*given, *by_label)
    # The same relevance as a table, with and without a header, and with ids in place of rows.
    pairs = []
    for query, label in enumerate(world.asked):
        for item in np.flatnonzero(world.labels == label):
            pairs.append((query, item))
    table = pd.DataFrame(pairs, columns=["query", "item"])
    table.to_csv("plain.csv", index=False)
    table.to_csv("headerless.csv", index=False, header=False)
    renamed = table.assign(item="i" + table["item"].astype(str), score=1)[
        ["score", "item", "query"]
    ]
    renamed.to_csv("named.tsv", index=False, sep="\t")
    Path("items.txt").write_text("".join(f"i{row}\n" for row in range(ITEMS)))
    Path("queries.txt").write_text("".join(f"{row}\n" for row in range(QUERIES)))
    ids = ("--ids", "items.txt", "queries.txt")
    for name, more in (("plain.csv", ()), ("headerless.csv", ()), ("named.tsv", ids)):
        # Every item is graded here, so the pairs are those of the labels.
        again = json.loads(output_of(*given, "--relevant", name, *more, "--json"))
        assert again["options"] == shown["options"]


def test_pairs_are_graded_items_only_after_all_others() -> None:
    for graded, drawn_of_graded in ((100, 0), (290, 140), (300, 150)):
        items = np.arange(graded)
        table = pd.DataFrame({"query": items, "item": items, "grade": 1.0})
        drawn = choose_pairs(300, None, ByGrade(table, graded))
        assert len(drawn) == len(set(drawn)) == 150
        assert (drawn < graded).sum() == drawn_of_graded


def relevant(text: str, **more: Any) -> dict[str, Any]:
    """Return the settings of a table of relevance, which the test writes to a file."""
    return {"text": text, "labels": None, "query_labels": None} | more


WORLD = World()
NAN = WORLD.old.copy()
NAN[7, 2] = np.nan
ZERO = WORLD.new.copy()
ZERO[8] = 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"new": WORLD.new[:3]}, "has 400 rows and the new vectors has 3"),
        ({"old": NAN}, "the old vectors: the vector in row 7 has a NaN"),
        ({"new": ZERO}, "the new vectors: the vector in row 8 is all zeros"),
        ({"old": np.ones(4)}, "vectors are a matrix"),
        ({"old": np.ones((400, 2), int)}, "vectors are a matrix"),
        ({"old": "none.npy"}, "none.npy: there is no such file"),
        ({"queries": (WORLD.queries[0][:5], WORLD.queries[1][:4])}, "has 5 rows and .* has 4"),
        ({"queries": WORLD.queries[::-1]}, "width 12, but the old vectors has width 8"),
        ({"pairs": (WORLD.old[:4], WORLD.new[:4])}, "4 pairs are too few"),
        ({"labels": [1, 2]}, "the labels: 2 values for 400 vectors"),
        ({"query_labels": None}, "the labels of the queries are missing"),
        ({"labels": None}, "the labels of the items are missing"),
        ({"query_labels": ["z"] * QUERIES}, "no query has a label of an item"),
        ({"relevant": "any.csv"}, "--relevant and --labels: give one"),
        ({"k": 0}, "--k 0"),
        (relevant("query,item\n0,9\n", queries=None), "give their vectors with --queries"),
        (relevant("query,item\n0,900\n"), "there is no item '900' among 400 rows"),
        (relevant("query,item\nx,9\n"), "there is no query 'x' among 120 rows"),
        (relevant("query,item,grade\n0,9,good\n"), "a grade is not a number: .*good"),
        (relevant("query,item,grade\n0,9,0\n"), "no grade above 0"),
        (relevant("a,b,c,d\n0,0,9,1\n"), "needs the columns 'query' and 'item'.* a, b, c, d"),
        (
            relevant("query,item\n" + "".join(f"{q + 1},{q}\n" for q in range(QUERIES))),
            "the query numbers run from 1 to 120, but rows are counted from 0",
        ),
    ],
)
def test_mistakes_are_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = dict(changes)
    if "text" in settings:
        Path("relevant.csv").write_text(settings.pop("text"))
        settings["relevant"] = "relevant.csv"
    with pytest.raises(CompatbenchError, match=message) as error:
        WORLD.measure(**settings)
    assert "\n" not in str(error.value)


def test_items_counted_from_one_are_noticed() -> None:
    """Each query asks for the item that it is a copy of, by a number that is one too high."""
    queries = (WORLD.old[:QUERIES] + 0.01, WORLD.new[:QUERIES] + 0.01)
    table = pd.DataFrame({"query": range(QUERIES), "item": range(QUERIES)})
    changes = {"queries": queries, "labels": None, "query_labels": None}
    assert WORLD.measure(relevant=table, **changes).queries == QUERIES
    with pytest.raises(CompatbenchError, match="items seem to be counted from 1"):
        WORLD.measure(relevant=table.assign(item=table["item"] + 1), **changes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (WORLD.old, WORLD.new[::-1], "do not contain the same items in the same order"),
        (WORLD.old[1:], WORLD.new[:-1], "shifted by one row .* row i \\+ 1 of the new vectors"),
        (WORLD.old[:-1], WORLD.new[1:], "shifted by one row .* row i \\+ 1 of the old vectors"),
    ],
)
def test_rows_that_do_not_match_are_noticed(old: np.ndarray, new: np.ndarray, message: str) -> None:
    with pytest.raises(CompatbenchError, match=message):
        cb.measure_index(old, new)


def test_queries_that_do_not_match_are_noticed() -> None:
    message = "the old queries and the new queries do not contain the same items"
    with pytest.raises(CompatbenchError, match=message):
        WORLD.measure(queries=(WORLD.queries[0], WORLD.queries[1][::-1]))


def test_a_row_that_is_missing_late_in_a_file_is_noticed() -> None:
    world = World(items=2600)
    new = np.delete(world.new, 1400, axis=0)
    with pytest.raises(CompatbenchError, match="shifted by one row in rows 1,599 to 2,598"):
        cb.measure_index(world.old[:-1], new)


def test_shared_neighbours_equal_the_naive_count() -> None:
    old = unit(WORLD.old[:60])
    new = unit(WORLD.new[:60])
    shared = []
    for row in range(60):
        nearest = []
        for side in (old, new):
            cosines = side @ side[row]
            cosines[row] = -np.inf
            nearest.append({*np.argsort(-cosines)[:10]})
        shared.append(len(nearest[0] & nearest[1]) / 10 - 10 / 59)
    assert shared_neighbours(old, new) == pytest.approx(shared)


@pytest.mark.slow
def test_torch_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, compatbench as cb\n"
        "draw = np.random.default_rng(0).standard_normal((300, 6))\n"
        "old, new = draw[:, :4], draw\n"
        "print(cb.measure_index(old, new).verdict)\n"
        f"fitted = cb.fit_index_map((old, new), out=r'{tmp_path}/map.safetensors')\n"
        f"cb.port_index(old, r'{tmp_path}/map.safetensors', out=r'{tmp_path}/new.npy')\n"
        "print(sorted({'torch', 'open_clip', 'torchvision', 'sklearn'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["cannot tell", "[]"]
