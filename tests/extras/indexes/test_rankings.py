"""Exact search by blocks, and the measures of rankings beside those of trec_eval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compatbench.extras.indexes.rankings import ByClass, Judged, measure, merge, search

# trec_eval's names of the measures.
NAMES = {"map": "map", "mrr": "recip_rank", "ndcg@10": "ndcg_cut_10"}
NAMES |= {f"success@{k}": f"success_{k}" for k in (1, 5, 10)}
NAMES |= {f"recall@{k}": f"recall_{k}" for k in (1, 5, 10, 100)}


def draw(seed: int, queries: int, items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, items, and grades of which most are 0; the first query has none."""
    generator = np.random.default_rng(seed)
    grades = generator.integers(0, 4, (queries, items)) * (generator.random((queries, items)) < 0.2)
    grades[0] = 0
    # Some are equal, and sums of whole numbers are exact in any order.
    vectors = (10 * generator.standard_normal((queries + items, 3))).round()
    return vectors[:queries], vectors[queries:], grades


def judge(grades: np.ndarray) -> Judged:
    return Judged(*np.nonzero(grades), grades[np.nonzero(grades)], len(grades))


def in_blocks(items: np.ndarray, size: int, rows: np.ndarray | None = None):
    rows = np.arange(len(items)) if rows is None else rows
    blocks = np.split(rows, range(size, len(rows), size))
    return lambda reach: [reach(block, items[block]) for block in blocks]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 999),
    queries=st.integers(1, 6),
    items=st.integers(1, 150),
    size=st.integers(1, 60),
    depth=st.integers(1, 120),
)
def test_search_by_blocks_is_a_sort_and_measures_are_those_of_trec_eval(
    seed: int, queries: int, items: int, size: int, depth: int
) -> None:
    asked, vectors, grades = draw(seed, queries, items)
    ranking = search(asked, in_blocks(vectors, size), depth)
    scores = asked @ vectors.T
    assert np.array_equal(ranking.rows, np.argsort(-scores, axis=1, kind="stable")[:, :depth])
    assert np.array_equal(ranking.scores, np.take_along_axis(scores, ranking.rows, 1))
    # An index in two parts is one index.
    thirds = np.arange(0, items, 3), np.delete(np.arange(items), slice(0, items, 3))
    parts = [search(asked, in_blocks(vectors, size, rows), depth) for rows in thirds if len(rows)]
    assert np.array_equal(merge(parts, depth).scores, ranking.scores)
    pytrec_eval = pytest.importorskip("pytrec_eval")
    # It ranks by scores, and those of equal ones by their names.
    run = {
        str(query): {str(item): -float(place) for place, item in enumerate(row)}
        for query, row in enumerate(ranking.rows)
    }
    qrels = {
        str(query): {str(item): int(grade) for item, grade in enumerate(row)}
        for query, row in enumerate(grades)
        if row.any()  # another query has no measures
    }
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {*NAMES.values()}).evaluate(run)
    for ours, values in measure(ranking.rows, judge(grades)).items():
        wanted = [theirs.get(str(query), {}).get(NAMES[ours], math.nan) for query in range(queries)]
        assert np.allclose(values, wanted, atol=1e-6, equal_nan=True), ours


def test_classes_and_judgements_say_the_same_and_no_query_finds_itself() -> None:
    generator = np.random.default_rng(0)
    items, classes = generator.standard_normal((50, 4)), generator.integers(0, 5, 50)
    itself = np.array([3, 17, 40])
    by_class = ByClass(classes[itself], classes, itself)
    same = (classes == classes[itself][:, None]) & (np.arange(50) != itself[:, None])
    judged = judge(same.astype(int))
    ranking = search(items[itself], in_blocks(items, 7), 50, itself)
    assert not (ranking.rows == itself[:, None]).any()
    assert (ranking.rows[:, -1] == -1).all()
    kept = generator.random(50) < 0.7
    kept[itself] = True
    for one, other in ((by_class, judged), (by_class.keep(kept), judged.keep(kept))):
        measured, wanted = measure(ranking.rows, one), measure(ranking.rows, other)
        for name in wanted:
            assert np.allclose(measured[name], wanted[name], equal_nan=True), name
