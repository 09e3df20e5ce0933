"""Keep the old model, encode everything again, or map the old index? Measured without any model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from compatbench.errors import CompatbenchError
from compatbench.extras.indexes.alignment import require_aligned
from compatbench.extras.indexes.index_maps import IndexMap, fit_map
from compatbench.extras.indexes.rankings import GRADED, ndcg, recall, search
from compatbench.extras.indexes.relevance import (
    ByGrade,
    Names,
    Relevance,
    leave_out,
    read_grades,
    read_labels,
)
from compatbench.extras.indexes.vectors import (
    VectorPair,
    Vectors,
    VectorSource,
    open_pair,
    require_width,
)
from compatbench.results.choice import choose_option, units_to_decide
from compatbench.results.estimate import Interval, estimate, interval_columns
from compatbench.tables.numbers import percent, signed, with_interval
from compatbench.tables.table import records

MOST_QUERIES = 2000  # rows of the index that ask, if no queries are given
NEIGHBOURS = 10  # that are taken as relevant, if nothing else is known
MOST_PAIRS = 1024  # rows of the index that the map is fitted on, if no pairs are given
OLD, MAPPED, NEW = "old model", "mapped", "re-encoded"
COSTS = {MAPPED: (0,), NEW: (1,)}  # encoding is what costs
Array = NDArray[Any]


@dataclass(frozen=True, repr=False)
class MeasuredIndex:
    """What an index is worth to the queries of a new model.

    Attributes:
        frame: a row for each ``option``: ``old model`` (old queries, old index), ``mapped`` (new
            queries, the old index mapped) and ``re-encoded`` (new queries, new index); ``ndcg@10``
            and ``recall@k`` in percent, and the ``gain`` in the measure that decides over the old
            model, each with the bounds of its 95 % interval over queries, ``_low`` and ``_high``.
        measure: the measure that decides: nDCG@10; or ``recall@10`` of the neighbours in the
            re-encoded index, if no relevance is known.
        verdict: ``keep the old model``, ``map the old index``, ``re-encode`` or ``cannot tell``.
        sentence: the verdict with its reason.
        map: the map that was measured.
    """

    frame: pd.DataFrame
    measure: str
    verdict: str
    sentence: str
    queries: int
    items: int
    map: IndexMap

    def __repr__(self) -> str:
        return f"<MeasuredIndex: {self.verdict}>"

    def __str__(self) -> str:
        measures = [name for name in self.frame.columns if f"{name}_low" in self.frame.columns]
        shown = []
        for row in records(self.frame):
            texts = {"option": row["option"]}
            for name in measures:
                texts[name] = with_interval(row, name, signed if name == "gain" else percent)
            shown.append(texts)
        table = pd.DataFrame(shown).set_index("option").rename_axis(None).to_string()
        note = f"{self.queries:,} queries, {self.items:,} items; intervals of 95 % over queries"
        return f"{self.sentence}\n\n{table}\n\n{note}; {self.map}."

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        names = ("verdict", "sentence", "measure", "queries", "items")
        facts = {name: getattr(self, name) for name in names}
        return facts | {"map": self.map.about, "options": self.frame}


def measure_index(
    old: VectorSource,
    new: VectorSource,
    *,
    queries: VectorPair | None = None,
    labels: Names | None = None,
    query_labels: Names | None = None,
    relevant: str | Path | pd.DataFrame | None = None,
    ids: tuple[Names, Names] | None = None,
    pairs: VectorPair | None = None,
    k: int = 10,
    column: str | None = None,
) -> MeasuredIndex:
    """Measure whether to keep the old model, re-encode an index, or map it to the new model.

    Works on vectors of any two models, of images, texts or sound, and loads no model. Vectors are
    compared by cosine, exactly, in blocks. Encode a sample of the index with the new model, and
    some queries with both.

    Args:
        old, new: the same items encoded by both models, in the same rows: arrays, or ``.npy``,
            parquet or Faiss files.
        queries: the same queries encoded by both models. Without them, every second row of the
            index is a query (2,000 at most) that does not find itself.
        labels: the class of each item; an item is relevant to queries of its class: lines of a
            text, a ``.npy``, or a CSV file with a column ``label``.
        query_labels: the class of each query.
        relevant: in place of labels, a CSV file with columns ``query``, ``item`` and, if there are
            grades, ``grade``. Without both, the ten nearest items in the re-encoded index count as
            relevant; this shows what a map preserves, but not whether the new model is better.
        ids: what ``relevant`` calls the items and the queries, in the order of their vectors:
            lines of a text, or a CSV file with a column ``id``. By default row numbers from 0.
        pairs: other items encoded by both models, to fit the map on. By default these are rows of
            the index, half of them at most, and first those that no query needs; they leave the
            index.
        k: how many results recall looks at.
        column: the column of vectors, if a parquet file has several.

    Returns:
        ``print`` shows the verdict and a table; ``frame`` has the numbers.

    Raises:
        CompatbenchError: different widths or numbers of rows, rows that do not match, a vector
            with a NaN or of zeros, or unknown ids.
    """
    if k < 1:
        raise CompatbenchError(f"--k {k}: give a number of at least 1")
    index = open_pair((old, new), "vectors", column)
    require_aligned(*index)
    itself = None
    if queries is None:
        itself = np.arange(index[0].rows)[:: max(2, -(-index[0].rows // MOST_QUERIES))]
        asked = index[0].take_units(itself), index[1].take_units(itself)
    else:
        asked = _read_units(queries, "queries", index, column)
    relevance = _read_relevance(
        (labels, query_labels), relevant, ids, index[0].rows, len(asked[0]), itself
    )
    if isinstance(relevance, ByGrade) and ids is None:
        require_row_numbers(relevance, asked[1], index[1])
    if pairs is None:
        fitted_on = choose_pairs(index[0].rows, itself, relevance)
        sample = index[0].take_units(fitted_on), index[1].take_units(fitted_on)
    else:
        fitted_on = np.empty(0, int)
        sample = _read_units(pairs, "pairs", index, column)
    index_map = fit_map(*sample)
    left_out = np.isin(np.arange(index[0].rows), fitted_on)
    depth = max(k, GRADED)
    how = {"depth": depth, "left_out": left_out, "itself": itself}
    ranked = {
        OLD: search(asked[0], index[0].unit_blocks(), **how),
        MAPPED: search(asked[1], index[0].unit_blocks(), change=index_map, **how),
        NEW: search(asked[1], index[1].unit_blocks(), **how),
    }
    known = relevance is not None
    if relevance is None:
        relevance = neighbours_as_relevant(ranked[NEW])
    relevance = leave_out(relevance, left_out)
    asking = relevance.counts() > 0
    if not asking.any():
        raise CompatbenchError("no query has a relevant item besides the pairs; give --pairs")
    figures = {}
    for option, rows in ranked.items():
        with np.errstate(invalid="ignore", divide="ignore"):  # queries without relevant items
            measured = {f"ndcg@{GRADED}": ndcg(rows, relevance)}
            measured[f"recall@{k}"] = recall(rows, relevance, k)
            measured[f"recall@{NEIGHBOURS}"] = recall(rows, relevance, NEIGHBOURS)
        figures[option] = {name: 100 * values[asking] for name, values in measured.items()}
    return summarise(figures, known, int((~left_out).sum()), index_map)


def _read_units(
    pair: VectorPair, what: str, index: tuple[Vectors, Vectors], column: str | None
) -> tuple[Array, Array]:
    """Return queries or pairs of both models with length 1."""
    sides = open_pair(pair, what, column)
    for vectors, items in zip(sides, index, strict=True):
        require_width(vectors, items.width, items.name)
    require_aligned(*sides)
    return sides[0].all_units(), sides[1].all_units()


def _read_relevance(
    labels: tuple[Names | None, Names | None],
    relevant: str | Path | pd.DataFrame | None,
    ids: tuple[Names, Names] | None,
    items: int,
    queries: int,
    itself: Array | None,
) -> Relevance | None:
    of_items, of_queries = labels
    if relevant is not None and (of_items is not None or of_queries is not None):
        raise CompatbenchError("--relevant and --labels: give one of the two")
    if relevant is not None:
        if itself is not None:
            raise CompatbenchError("--relevant names queries: give their vectors with --queries")
        return read_grades(relevant, items, queries, ids)
    if of_items is not None:
        return read_labels(of_items, of_queries, items, queries, itself)
    if of_queries is not None:
        raise CompatbenchError("the labels of the items are missing; give --labels, too")
    return None


def require_row_numbers(relevance: ByGrade, asked: Array, items: Vectors) -> None:
    """Raise an error if the items before the relevant ones fit the queries better."""
    table = relevance.table
    table = table[table["item"] > 0].iloc[:MOST_QUERIES]
    rows = table["item"].to_numpy()
    needed = np.union1d(rows, rows - 1)
    vectors = items.take_units(needed)
    queries = asked[table["query"].to_numpy()]
    cosines = []
    for wanted in (rows, rows - 1):
        cosines.append((queries * vectors[np.searchsorted(needed, wanted)]).sum(axis=1))
    better = estimate(cosines[1] - cosines[0])
    if better is not None and better.sign == 1:
        raise CompatbenchError(
            "--relevant: items seem to be counted from 1, because the rows before the relevant "
            "items are nearer to the queries; rows are counted from 0, so subtract 1"
        )


def choose_pairs(rows: int, itself: Array | None, relevance: Relevance | None) -> Array:
    """Draw the rows that the map is fitted on: no queries, and graded items after all others."""
    free = np.ones(rows, bool)
    if itself is not None:
        free[itself] = False
    graded = np.zeros(rows, bool)
    if isinstance(relevance, ByGrade):
        graded[relevance.table["item"]] = True
    wanted = min(MOST_PAIRS, rows // 2)
    generator = np.random.default_rng(0)
    ungraded_first = [
        generator.permutation(np.flatnonzero(free & ~graded)),
        generator.permutation(np.flatnonzero(free & graded)),
    ]
    return np.sort(np.concatenate(ungraded_first)[:wanted])


def neighbours_as_relevant(ranked: Array) -> ByGrade:
    """Take the first ten results of each query for relevant."""
    nearest = ranked[:, :NEIGHBOURS]
    queries = np.repeat(np.arange(len(nearest)), nearest.shape[1])
    table = pd.DataFrame({"query": queries, "item": nearest.ravel(), "grade": 1.0})
    return ByGrade(table[table["item"] >= 0], len(ranked))


def summarise(
    figures: Mapping[str, Mapping[str, Array]],
    known: bool,
    items: int,
    index_map: IndexMap,
) -> MeasuredIndex:
    """Return the table and the verdict, from the measures of each query in percent."""
    measure = f"ndcg@{GRADED}" if known else f"recall@{NEIGHBOURS}"
    old = figures[OLD][measure]
    rows = []
    gains: dict[str, Interval | None] = {}
    for option, measured in figures.items():
        row: dict[str, Any] = {"option": option}
        for name, values in measured.items():
            row |= interval_columns(name, estimate(values))
        gains[option] = None if option == OLD else estimate(measured[measure] - old)
        rows.append(row | interval_columns("gain", gains[option]))
    frame = pd.DataFrame(rows)
    if known:
        verdict, sentence = judge(figures, measure)
    else:
        kept = figures[MAPPED][measure].mean()
        verdict = "cannot tell"
        sentence = (
            "Cannot tell whether the new model is better, because no relevance is known: the "
            f"mapped index finds {kept:.0f} % of the {NEIGHBOURS} nearest items that the "
            f"re-encoded index finds, and the old model finds {old.mean():.0f} %."
        )
    return MeasuredIndex(frame, measure, verdict, sentence, len(old), items, index_map)


def judge(figures: Mapping[str, Mapping[str, Array]], measure: str) -> tuple[str, str]:
    """Return the verdict and its sentence, by paired differences over queries.

    Of the options that gain significantly, the cheapest is chosen that is not significantly worse
    than the best one.
    """
    old = figures[OLD][measure]
    scores = pd.DataFrame({option: figures[option][measure] for option in (MAPPED, NEW)}).T
    gains = {}
    for option, scored in scores.iterrows():
        gain = estimate(scored.to_numpy() - old)
        if gain is None:
            raise CompatbenchError("no query has a measure that can be compared")
        gains[str(option)] = gain
    choice = choose_option(scores, old, COSTS)
    title = "nDCG@10"
    if choice.option:
        verdict = "map the old index" if choice.option == MAPPED else "re-encode"
        gain = _in_words(gains[choice.option])
        reason = f"it gains {gain} points of {title} over the old model"
        return verdict, f"{verdict.capitalize()}: {reason}."
    if choice.all_lose:
        losses = " and ".join(f"{option} {_in_words(gain)}" for option, gain in gains.items())
        verdict = "keep the old model"
        return verdict, f"{verdict.capitalize()}: both alternatives are worse ({title}: {losses})."
    best = max(gains, key=lambda option: gains[option].value)
    likely = gains[best]
    needed = units_to_decide(likely, len(old))
    more = f" About {needed:,.0f} queries would decide." if np.isfinite(needed) else ""
    sentence = (
        f"Cannot tell: no option is significantly better than the old model; the best, "
        f"{best}, differs by {_in_words(likely)} points of {title}.{more}"
    )
    return "cannot tell", sentence


def _in_words(interval: Interval) -> str:
    text = f"{interval.value:+.1f}"
    return f"{text} ({interval.low:+.1f} to {interval.high:+.1f})" if interval.bounded else text
