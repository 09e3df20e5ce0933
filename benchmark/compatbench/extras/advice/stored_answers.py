"""The answers to single images that a run has left in its store, for rows of results."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from compatbench.data.draws import load_test_set
from compatbench.engine.cell import Where
from compatbench.engine.keys import zero_shot_key
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.method.predictions import Predictions
from compatbench.results.differences import OLD, ZERO_SHOT
from compatbench.results.estimate import Array
from compatbench.results.options import option_name

Right = dict[str, Array]


def read_answers(
    rows: pd.DataFrame, tasks: Sequence[str], out: Path, precision: str
) -> tuple[Right, Array] | None:
    """Return the right answers of options to every image, and the task of each image.

    Args:
        rows: of an upgrade, with the name of their ``option``.
        tasks: names of the tasks.
        out: the folder of ``runs/``.
        precision: number format of the frozen towers.

    Returns:
        As ``compare_answers`` takes them; None unless the answers of all rows are here, and give
        the counts of the rows.
    """
    reader = _Reader(out / "runs", precision)
    right: Right = {}
    try:
        labels = [_labels(task) for task in tasks]
        for option, of_option in rows.groupby("option", sort=False):
            places = of_option.set_index(["seed", "test_set"])
            seeds = list(of_option["seed"].unique())
            old = option_name(of_option["method"].iloc[0], OLD)
            if old not in right and not of_option["source_correct"].isna().any():
                right[old] = reader.read(places, seeds, tasks, "source", labels)
            if of_option["target_correct"].isna().any():
                continue
            right[str(option)] = reader.read(places, seeds, tasks, "target", labels)
            if ZERO_SHOT not in right:
                right[ZERO_SHOT] = reader.read_zero_shot(places, seeds[0], tasks, labels)
    except (LookupError, CompatbenchError):
        return None
    if not right:
        return None
    sizes = [len(each) for each in labels]
    return right, np.repeat(np.arange(len(tasks), dtype=float), sizes)


def _labels(task: str) -> Array:
    return np.array([sample.label for sample in load_test_set(task).split("test")])


class _Reader:
    """Reads predictions by the short keys of rows."""

    def __init__(self, folder: Path, precision: str) -> None:
        self._store = RunStore(folder)
        self._precision = precision
        self._read = cache(self._store.read_predictions)

    def read(
        self,
        places: pd.DataFrame,
        seeds: Sequence[int],
        tasks: Sequence[str],
        side: str,
        labels: Sequence[Array],
    ) -> Array:
        """Return 1 where an image is classified correctly, ``[seeds, images]``."""
        answers = []
        for seed in seeds:
            parts = []
            for task, known in zip(tasks, labels, strict=True):
                row: Any = places.loc[(seed, task)]
                _, predictions = self._find(row, side, task)
                part = _mark(predictions, known)
                if part.sum() != row[f"{side}_correct"]:
                    raise LookupError("the predictions are not those of the row")
                parts.append(part)
            answers.append(np.concatenate(parts))
        return np.stack(answers)

    def read_zero_shot(
        self, places: pd.DataFrame, seed: int, tasks: Sequence[str], labels: Sequence[Array]
    ) -> Array:
        """Return the same of zero-shot on the target, ``[1, images]``."""
        parts = []
        for task, known in zip(tasks, labels, strict=True):
            row: Any = places.loc[(seed, task)]
            where, _ = self._find(row, "target", task)
            predictions = self._read(zero_shot_key(where[2], self._precision))
            parts.append(_mark(predictions[where], known))
        return np.concatenate(parts)[None]

    def _find(self, row: pd.Series, side: str, task: str) -> tuple[Where, Predictions]:
        """Return the place and the predictions of one side of a row."""
        short = str(row[f"{side}_key"])
        folder = self._store.predictions_path(short).parent
        paths = list(folder.glob(f"{short}*.safetensors"))
        if len(paths) != 1:
            raise LookupError(f"the store has {len(paths)} files of predictions for this row")
        for where, predictions in self._read(paths[0].stem).items():
            if where[1] == task and where[2].startswith(str(row[f"{side}_data"])):
                return where, predictions
        raise LookupError("the store has no predictions for this row")


def _mark(predictions: Predictions, labels: Array) -> Array:
    if len(predictions.classes) != len(labels):
        raise LookupError("the predictions are not those of the images")
    return (predictions.classes.numpy() == labels).astype(float)
