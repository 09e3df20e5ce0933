"""What is relevant to whom: TREC's qrels, tables of queries and items, and class labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from compatbench.errors import CompatbenchError
from compatbench.extras.indexes.rankings import ByClass, Judged
from compatbench.files.kinds import require
from compatbench.messages import first_line

Names = str | Path | Sequence[Any] | NDArray[Any]


def read_names(names: Names, count: int, what: str) -> NDArray[Any]:
    """One name for each of ``count`` things: the lines of a text, the values of a .npy or list."""
    if isinstance(names, (str, Path)):
        path = Path(names)
        if path.suffix == ".npy":
            values = _read(path, lambda: np.load(path, allow_pickle=False))
        else:
            values = _read(path, lambda: path.read_text(encoding="utf-8").splitlines())
        what = f"{path}, the {what},"
    else:
        values, what = names, f"the {what}"
    texts = np.array([str(value).strip() for value in np.asarray(values).ravel()])
    if len(texts) != count:
        raise CompatbenchError(f"{what} has {len(texts):,} values for {count:,} vectors")
    return texts


def read_relevance(
    relevant: str | Path | pd.DataFrame | None,
    labels: Names | None,
    query_labels: Names | None,
    ids: tuple[Names, Names] | None,
    counts: tuple[int, int],
    itself: NDArray[np.intp] | None,
) -> ByClass | Judged | None:
    """What is relevant, by judgements or by classes; of items that ask, ``itself``, by classes."""
    if relevant is None and labels is not None:
        return read_classes(labels, query_labels, counts, itself)
    if labels is not None or query_labels is not None:
        both = "relevant items or labels, one of the two"
        raise CompatbenchError(
            f"give {'the labels of the items, too' if relevant is None else both}"
        )
    if relevant is None:
        return None
    if itself is not None:
        raise CompatbenchError("relevant items are those of queries: give the queries, too")
    return read_judgements(relevant, counts, ids)


def read_judgements(
    judgements: str | Path | pd.DataFrame, counts: tuple[int, int], ids: tuple[Names, Names] | None
) -> Judged:
    """The relevant items of queries.

    Args:
        judgements: a file of TREC's qrels (query, iteration, item, grade, without a header), or a
            table with a header whose first columns are query, item and, if it has one, grade: CSV,
            or separated by tabs as in BEIR; or a frame of such columns. Grades of 0 and below are
            of items that are not relevant; without grades all are.
        counts: of items and of queries.
        ids: of items and of queries, in the order of their vectors; by default row numbers, from 0.
    """
    name = str(judgements) if isinstance(judgements, (str, Path)) else "the frame"
    table = _read_table(Path(judgements)) if isinstance(judgements, (str, Path)) else judgements
    columns = table.to_numpy(object).T.tolist()
    if len(columns) < 2:
        raise CompatbenchError(
            f"{name} has one column; give TREC's qrels or a table of query, item and grade, or "
            "class labels with --labels"
        )
    places = []
    for kind, number, column in zip(("query", "item"), counts[::-1], columns, strict=False):
        known = [*map(str, range(number))]
        if ids is not None:
            known = read_names(ids[kind == "query"], number, f"ids of {kind}").tolist()
        rows = {each: row for row, each in enumerate(known)}
        if len(rows) < number:
            raise CompatbenchError(f"the ids of {kind} are not all different")
        asked = [str(each).strip() for each in column]
        if unknown := [each for each in asked if each not in rows]:
            raise CompatbenchError(
                f"{name}: there is no {kind} '{unknown[0]}' among {number:,}; ids are row numbers "
                "from 0, unless --ids gives them"
            )
        places.append(np.array([rows[each] for each in asked], np.int64))
    grades = np.ones(len(table))
    if len(columns) > 2:
        try:
            grades = np.array([float(each) for each in columns[2]])
        except ValueError as error:
            raise CompatbenchError(f"{name}: a grade is no number: {first_line(error)}") from None
    good = grades > 0
    if not good.any():
        raise CompatbenchError(f"{name} has no relevant item")
    keys = np.stack(places)[:, good]
    (queries, items), first = np.unique(keys, axis=1, return_index=True)
    return Judged(queries, items, grades[good][first], counts[1])


def read_classes(
    labels: Names,
    query_labels: Names | None,
    counts: tuple[int, int],
    itself: NDArray[np.intp] | None,
) -> ByClass:
    """An item is relevant to the queries of its class; queries may be items, ``itself``."""
    names = [read_names(labels, counts[0], "labels of the items")]
    if query_labels is not None:
        names.append(read_names(query_labels, counts[1], "labels of the queries"))
    elif itself is not None:
        names.append(names[0][itself])
    else:
        raise CompatbenchError("give the labels of the queries, too")
    known, numbers = np.unique(np.concatenate(names), return_inverse=True)
    asked = numbers[counts[0] :]
    if not np.isin(asked, numbers[: counts[0]]).any():
        raise CompatbenchError(
            f"no query has a label of an item, such as '{names[0][0]}'; of queries the first is "
            f"'{known[asked[0]]}'"
        )
    return ByClass(asked, numbers[: counts[0]], itself)


def _read_table(path: Path) -> pd.DataFrame:
    lines = _read(path, lambda: path.read_text(encoding="utf-8").splitlines())
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise CompatbenchError(f"{path} is empty")
    first = lines[0]
    between = "\t" if "\t" in first else "," if "," in first else None
    rows = [[part.strip() for part in line.split(between)] for line in lines]
    if len({len(row) for row in rows}) > 1:
        wrong = next(place for place, row in enumerate(rows) if len(row) != len(rows[0]))
        raise CompatbenchError(
            f"{path}: line {wrong + 1} has {len(rows[wrong])} columns, and the first {len(rows[0])}"
        )
    if len(rows[0]) in (3, 4) and rows[0][-1].lstrip("-").isdecimal():  # TREC's have no header
        return pd.DataFrame([(row[0], *row[-2:]) for row in rows])
    return pd.DataFrame(rows[1:], columns=pd.Index(rows[0]))


def _read(path: Path, read: Any) -> Any:
    try:
        require(path, follow=True)
        return read()
    except (OSError, ValueError) as error:
        raise CompatbenchError(f"cannot read {path}: {first_line(error)}") from None
