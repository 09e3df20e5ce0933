"""Which items are relevant to which query: by class labels, or by a table of query, item, grade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from compatbench.errors import CompatbenchError
from compatbench.files.kinds import require
from compatbench.messages import first_line

# Names of columns, ours first; the others are those of BEIR and of common exports.
LABEL = ("label", "labels", "class", "category")
ID = ("id", "ids")
QUERY = ("query", "query-id", "query_id", "qid")
ITEM = ("item", "corpus-id", "corpus_id", "item_id", "doc_id", "docid")
GRADE = ("grade", "score", "relevance")
Array = NDArray[Any]
Names = str | Path | Sequence[Any] | Array


@dataclass(frozen=True, eq=False)
class ByLabel:
    """An item is relevant to the queries with its label; the grade is 1.

    Attributes:
        asked: a number for the label of each query, ``[Q]``.
        labels: the same for each item, ``[N]``; -1 for an item that is left out.
        itself: the row that each query is, ``[Q]``, which is not relevant to it.
    """

    asked: Array
    labels: Array
    itself: Array | None = None

    def grades(self, ranked: Array) -> Array:
        """Return the grades of ranked rows, ``[Q, k]``; a row of -1 has grade 0."""
        same = self.labels[ranked] == self.asked[:, None]
        return (same & (ranked >= 0)).astype(float)

    def counts(self) -> Array:
        """Return the number of relevant items of each query, ``[Q]``."""
        sizes = np.bincount(self.labels[self.labels >= 0], minlength=int(self.asked.max()) + 1)
        counts = sizes[self.asked]
        if self.itself is not None:
            counts = counts - (self.labels[self.itself] == self.asked)
        return counts

    def best_grades(self, k: int) -> Array:
        """Return the k highest grades of each query, in decreasing order, ``[Q, k]``."""
        return (np.arange(k) < self.counts()[:, None]).astype(float)


@dataclass(frozen=True, eq=False)
class ByGrade:
    """Grades of pairs of a query and an item.

    Attributes:
        table: columns ``query``, ``item`` (row numbers) and ``grade`` above 0; one row for a pair.
        queries: the number of queries.
    """

    table: pd.DataFrame
    queries: int

    def grades(self, ranked: Array) -> Array:
        """Return the grades of ranked rows, ``[Q, k]``; a row of -1 has grade 0."""
        known = self.table.set_index(["query", "item"])["grade"]
        asked = np.repeat(np.arange(len(ranked)), ranked.shape[1])
        pairs = pd.MultiIndex.from_arrays([asked, ranked.ravel()])
        return known.reindex(pairs).fillna(0.0).to_numpy().reshape(ranked.shape)

    def counts(self) -> Array:
        """Return the number of relevant items of each query, ``[Q]``."""
        return np.bincount(self.table["query"], minlength=self.queries)

    def best_grades(self, k: int) -> Array:
        """Return the k highest grades of each query, in decreasing order, ``[Q, k]``."""
        ordered = self.table.sort_values(["query", "grade"], ascending=[True, False])
        place = ordered.groupby("query").cumcount().to_numpy()
        best = np.zeros((self.queries, k))
        first = place < k
        best[ordered["query"].to_numpy()[first], place[first]] = ordered["grade"][first]
        return best


Relevance = ByLabel | ByGrade


def leave_out(relevance: Relevance, rows: Array) -> Relevance:
    """Return the relevance without the items of a mask over all rows."""
    if isinstance(relevance, ByLabel):
        labels = np.where(rows, -1, relevance.labels)
        return ByLabel(relevance.asked, labels, relevance.itself)
    kept = ~rows[relevance.table["item"]]
    return ByGrade(relevance.table[kept], relevance.queries)


def read_labels(
    labels: Names, query_labels: Names | None, items: int, queries: int, itself: Array | None
) -> ByLabel:
    """Read the labels of items and queries; queries that are rows of the index have theirs."""
    of_items = read_column(labels, items, "the labels", LABEL)
    if query_labels is not None:
        of_queries = read_column(query_labels, queries, "the labels of the queries", LABEL)
    elif itself is not None:
        of_queries = of_items[itself]
    else:
        raise CompatbenchError("the labels of the queries are missing; give --query-labels, too")
    _, numbers = np.unique(np.concatenate([of_items, of_queries]), return_inverse=True)
    relevance = ByLabel(numbers[items:], numbers[:items], itself)
    if not relevance.counts().any():
        raise CompatbenchError(
            f"no query has a label of an item: queries have labels such as '{of_queries[0]}', "
            f"items such as '{of_items[0]}'"
        )
    return relevance


def read_grades(
    relevant: str | Path | pd.DataFrame,
    items: int,
    queries: int,
    ids: tuple[Names, Names] | None = None,
) -> ByGrade:
    """Read a table of query, item and grade; grades of 0 and below are ignored.

    Queries and items are row numbers that begin at 0, or the ``ids`` (of items, of queries).
    """
    name = "the table" if isinstance(relevant, pd.DataFrame) else str(relevant)
    table = _read_grade_table(relevant, name)
    sizes = {"item": items, "query": queries}
    sides = dict(zip(sizes, ids or (None, None), strict=True))
    places: dict[str, Any] = {}
    for side, size in sizes.items():
        given = table[side].map(_as_text)
        places[side] = _find_rows(name, side, given, size, sides[side])
    try:
        grades = pd.to_numeric(table["grade"])
    except (ValueError, TypeError) as error:
        raise CompatbenchError(f"{name}: a grade is not a number: {first_line(error)}") from None
    found = pd.DataFrame(places | {"grade": grades.to_numpy(float)})
    found = found[found["grade"] > 0].drop_duplicates(["query", "item"], ignore_index=True)
    if found.empty:
        raise CompatbenchError(f"{name} has no grade above 0, so nothing is relevant")
    return ByGrade(found, queries)


def _read_grade_table(relevant: str | Path | pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the columns query, item and grade, found by their names.

    Without such names a file of two or three columns has no header, and the columns are in this
    order.
    """
    table = relevant if isinstance(relevant, pd.DataFrame) else _read_csv(Path(relevant), header=0)
    query = _find_column(table, QUERY)
    item = _find_column(table, ITEM)
    grade = _find_column(table, GRADE)
    if query is None or item is None:
        if isinstance(relevant, pd.DataFrame) or len(table.columns) not in (2, 3):
            columns = ", ".join(map(str, table.columns))
            raise CompatbenchError(
                f"{name} needs the columns 'query' and 'item', and 'grade' if there are grades; "
                f"its columns are {columns}"
            )
        table = _read_csv(Path(relevant), header=None)
        query = 0
        item = 1
        grade = 2 if len(table.columns) == 3 else None
    grades = 1 if grade is None else table[grade]
    return pd.DataFrame({"query": table[query], "item": table[item], "grade": grades})


def _find_rows(name: str, side: str, given: pd.Series, size: int, ids: Names | None) -> Array:
    """Return the row numbers of queries or items."""
    known = np.arange(size).astype(str)
    if ids is not None:
        known = read_column(ids, size, f"the ids of {side}", ID)
    rows = pd.Series(np.arange(size), index=known)
    if not rows.index.is_unique:
        raise CompatbenchError(f"the ids of {side} are not all different")
    places = rows.reindex(given).to_numpy()
    unknown = np.isnan(places.astype(float))
    if not unknown.any():
        return places.astype(int)
    first = given.iloc[int(np.argmax(unknown))]
    if ids is None and first == str(size) and "0" not in set(given):
        raise CompatbenchError(
            f"{name}: the {side} numbers run from 1 to {size:,}, but rows are counted from 0; "
            "subtract 1 from them"
        )
    raise CompatbenchError(
        f"{name}: there is no {side} '{first}' among {size:,} rows; use row numbers that begin "
        "at 0, or give the ids with --ids"
    )


def read_column(source: Names, count: int, what: str, names: Sequence[str]) -> Array:
    """Return one text for each of ``count`` rows: of a list, a ``.npy``, or a text or CSV file.

    A file with one more line than rows has a header. Of several columns that with one of the
    ``names`` is taken.
    """
    if not isinstance(source, (str, Path)):
        values = [_as_text(value) for value in np.asarray(source).ravel()]
    elif Path(source).suffix == ".npy":
        what = str(source)
        try:
            # A mapped file cannot have a larger array than itself.
            file = require(Path(source), follow=True)
            stored = np.load(file, mmap_mode="r", allow_pickle=False)
        except CompatbenchError:
            raise
        # numpy lets the errors of Python's parser escape for a damaged header.
        except Exception as error:
            raise CompatbenchError(f"cannot read {source}: {first_line(error)}") from None
        values = [_as_text(value) for value in stored.ravel()]
    else:
        what = str(source)
        table = _read_csv(Path(source), header=None)
        column = 0
        if len(table.columns) > 1 or len(table) == count + 1:
            titled = table.iloc[1:].set_axis(table.iloc[0], axis=1)
            found = _find_column(titled, names)
            if found is None and len(table.columns) > 1:
                raise CompatbenchError(
                    f"{source} has no column '{names[0]}'; its columns are "
                    f"{', '.join(titled.columns)}"
                )
            table = titled
            column = titled.columns[0] if found is None else found
        values = table[column].str.strip().tolist()
    if len(values) != count:
        raise CompatbenchError(f"{what}: {len(values):,} values for {count:,} vectors")
    return np.array(values)


def _as_text(value: Any) -> str:
    """Return an id as text; 3.0 and 3 are the same."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    return str(value).strip()


def _find_column(table: pd.DataFrame, names: Sequence[str]) -> Any:
    """Return the first column with one of the names, or None."""
    titles = {str(title).strip().casefold(): title for title in table.columns}
    return next((titles[name] for name in names if name in titles), None)


def _read_csv(path: Path, header: int | None) -> pd.DataFrame:
    """Read a file as text; its columns are separated by commas or tabs."""
    try:
        with require(path, follow=True).open(encoding="utf-8") as file:
            between = "\t" if "\t" in file.readline() else ","
        return pd.read_csv(path, sep=between, header=header, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise CompatbenchError(f"cannot read {path}: {first_line(error)}") from None
