"""Predictions that are results, too: ``results/<suite>/<method>.safetensors``.

A suite keeps them if its card says ``predictions: true``. With them every measure of its rows can
be computed without a fit, also one that is registered after the rows were made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path

import pandas as pd
import torch

from compatbench.engine.cell import Where
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import holds, write_atomic
from compatbench.files.kinds import kind_of
from compatbench.files.tensors import load_tensors, pack_tensors
from compatbench.method.predictions import Predictions
from compatbench.results.collect import read_labels, score_place
from compatbench.results.method_results import MethodResults, find_unmeasured
from compatbench.results.result_files import PREDICTIONS, read_method, read_methods, write_results

SCHEMA = "compatbench-kept-predictions-1"
ZERO_SHOT = "zeroshot"  # the method whose predictions are zero-shot's
ByCell = Mapping[str, Mapping[Where, Predictions]]  # predictions by the cell's key, and by place


def pack_predictions(by_cell: ByCell, rows: pd.DataFrame) -> bytes:
    """The file of the predictions behind rows, empty without any: the same give the same bytes.

    Classes take the fewest bytes that hold them, most often one; confidences take two.
    """
    places = sorted({(key, where) for _, key, _, where in _answered(rows)})
    kept = [(key, where) for key, where in places if where in by_cell.get(key, ())]
    answers = [by_cell[key][where] for key, where in kept]
    if not answers:
        return b""
    classes = torch.cat([each.classes for each in answers])
    tensors = {
        "classes": classes.to(_smallest_type(int(classes.min()), int(classes.max()))),
        "confidence": torch.cat([each.confidence for each in answers]).half(),
    }
    wheres = sorted({where for _, where in kept})
    images = {where: len(each.classes) for (_, where), each in zip(kept, answers, strict=True)}
    number = {where: i for i, where in enumerate(wheres)}
    cells: dict[str, list[int]] = {}
    for key, where in kept:
        cells.setdefault(key, []).append(number[where])
    about = {"places": [[*where, images[where]] for where in wheres], "cells": cells}
    return pack_tensors(tensors, SCHEMA, about)


def _answered(rows: pd.DataFrame) -> Iterator[tuple[int, str, str, Where]]:
    """Of the rows that are ok: index, key of the cell, source, and place."""
    columns = ["key", "source", "backbone", "test_set", "data"]
    for index, key, source, *where in rows.loc[rows["status"] == "ok", columns].itertuples():
        yield index, key, source, (where[0], where[1], where[2])


def _smallest_type(least: int, most: int) -> torch.dtype:
    """The first type that holds both numbers; those of refused images are below 0."""
    types = (torch.uint8, torch.int8, torch.int16, torch.int32)
    return next(t for t in types if torch.iinfo(t).min <= least and most <= torch.iinfo(t).max)


def read_kept(folder: Path, method: str) -> dict[str, dict[Where, Predictions]]:
    """The predictions that are kept of a method, by cell and place; none if it has no file.

    Raises:
        CompatbenchError: a broken file.
    """
    path = folder / f"{method}{PREDICTIONS}"
    if kind_of(path) != "file":
        return {}
    tensors, about = load_tensors(path, SCHEMA, "file of kept predictions")
    try:
        order = [(k, about["places"][n]) for k in sorted(about["cells"]) for n in about["cells"][k]]
        ends = [*accumulate((place[3] for _, place in order), initial=0)]
        classes, confidence = tensors["classes"].int(), tensors["confidence"].float()
        if not len(classes) == len(confidence) == ends[-1]:
            raise ValueError("images")
        by_cell: dict[str, dict[Where, Predictions]] = {}
        for (key, (backbone, test_set, data, _)), (start, end) in zip(
            order, pairwise(ends), strict=True
        ):
            answers = Predictions(classes[start:end], confidence[start:end])
            by_cell.setdefault(key, {})[backbone, test_set, data] = answers
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CompatbenchError(f"{path}: places and predictions do not agree ({error})") from None
    return by_cell


def keep_predictions(folder: Path, names: Collection[str], store: RunStore) -> None:
    """Writes the predictions behind the rows of methods: the store's, and those that were kept."""
    for name in names:
        rows = read_method(folder, name).rows
        by_cell, path = read_kept(folder, name), folder / f"{name}{PREDICTIONS}"
        by_cell |= {key: read for key in {*rows["key"]} if (read := store.read_predictions(key))}
        content = pack_predictions(by_cell, rows)
        if content and not holds(path, content):
            write_atomic(path, content)


def score_kept(
    methods: Mapping[str, MethodResults], kept: Mapping[str, ByCell], but: Collection[str] = ()
) -> dict[str, pd.DataFrame]:
    """By method, the rows that are ok with the figures that kept predictions give.

    Args:
        kept: the predictions of methods, zero-shot among them.
        but: keys of cells that are left out.

    Raises:
        CompatbenchError: a test set that is not here.
    """
    zero_shot: dict[Where, Predictions] = {}
    for answers in kept.get(ZERO_SHOT, {}).values():
        zero_shot |= answers
    scored, labels_of = {}, cache(read_labels)
    for name, results in methods.items():
        by_cell, figures = kept.get(name, {}), {}
        for index, key, source, where in _answered(results.rows):
            answers = by_cell.get(key, {}) if key not in but else {}
            if where in answers and where in zero_shot:
                labels = labels_of(where[1])
                figures[index] = score_place(where, source, answers, zero_shot[where], labels)
        if figures:
            table = pd.DataFrame.from_dict(figures, orient="index")
            rows = results.rows.loc[table.index].copy()
            rows[table.columns] = table.astype(rows.dtypes[table.columns])
            scored[name] = rows
    return scored


def add_measures(folder: Path) -> None:
    """Computes, of the predictions that a suite keeps, the measures that no row of it has."""
    methods = read_methods(folder)
    lacking = find_unmeasured(methods.values())
    kept = {name: read_kept(folder, name) for name in methods if lacking}
    for name, scored in score_kept(methods, kept).items():
        rows = methods[name].rows.copy()
        rows[lacking] = scored[lacking].reindex(rows.index)
        write_results(folder, replace(methods[name], rows=rows))
