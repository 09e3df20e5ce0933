"""Compare the embedding spaces of the mini models: rotations between them, and stored indexes.

    python benchmark/research/embedding_spaces.py    # writes rotations.csv and stored_indexes.csv

The sections of docs/findings.md are made from these files. The models and the tasks ship.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

import compatbench as cb
from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.joint_maps import fit_rotation
from compatbench.backbone.words import WordFeatures
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import suite_cards
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import Task, load_task
from compatbench.engine.predict import read_features
from compatbench.extras.indexes.measure_index import MAPPED, NEW, OLD, MeasuredIndex
from compatbench.tables.markdown import render_table
from compatbench.tables.numbers import percent, with_interval
from compatbench.tables.table import TableCell, code, number, plain_table, records

ROTATIONS = Path(__file__).with_name("rotations.csv")
INDEXES = Path(__file__).with_name("stored_indexes.csv")
SOURCE = "mini-clip"
TARGETS = ("mini-eva-clip", "mini-eva-clip-anew", "mini-clip-next", "mini-clip-other")
SUITE = "mini"
# What a map leaves unexplained, by the column of the file.
LEFT = {
    "words": "words, as they are",
    "words_by_words": "words, rotated by words",
    "images": "images, as they are",
    "images_by_words": "images, rotated by words",
    "images_by_images": "images, rotated by images",
    "agreement": "agreement",
}


def make_sections() -> dict[str, str]:
    """Return the sections by name."""
    return {"rotation": show_rotations(), "index": show_indexes()}


class Spaces:
    """The embedding spaces of models: features of words, of test images and of class names."""

    def __init__(self) -> None:
        cache = default_cache_folder()
        self._cache = FeatureCache(cache)
        self._words = WordFeatures(cache)
        card = suite_cards.read(SUITE)
        self.tasks: list[Task] = [load_task(name) for name in card.tasks]

    def words(self, backbone: Backbone) -> Tensor:
        """Return the features of the word list, ``[V, e]``, float64."""
        return self._words.of(backbone).cpu().double()

    def images(self, backbone: Backbone) -> Tensor:
        """Return the features of all test images, ``[images, e]``, float64."""
        parts = [read_features(backbone, task, self._cache).cpu() for task in self.tasks]
        return F.normalize(torch.cat(parts).double(), dim=-1)

    def classes(self, backbone: Backbone) -> Tensor:
        """Return the zero-shot features of all classes, ``[classes, e]``, float64."""
        return torch.cat([backbone.zero_shot(task.labels).cpu() for task in self.tasks]).double()

    def labels(self) -> list[str]:
        """Return the class of each test image, with its task."""
        return [
            f"{task.name} {sample.label}" for task in self.tasks for sample in task.split("test")
        ]

    def class_labels(self) -> list[str]:
        """Return all classes, with their tasks, in the order of ``classes``."""
        found = []
        for task in self.tasks:
            found += [f"{task.name} {number}" for number in range(len(task.labels.names))]
        return found


def measure_rotations(spaces: Spaces) -> pd.DataFrame:
    """Return what maps between the source's and a target's space leave unexplained."""
    source = load_backbone(SOURCE)
    old_words = spaces.words(source)
    old_images = spaces.images(source)
    rows = []
    for name in TARGETS:
        target = load_backbone(name)
        new_words = spaces.words(target)
        new_images = spaces.images(target)
        by_words = fit_rotation(old_words, new_words).rotation
        by_images = fit_rotation(old_images, new_images).rotation
        row = {
            "target": name,
            "words": unexplained(old_words, new_words),
            "words_by_words": unexplained(old_words, new_words @ by_words.T),
            "images": unexplained(old_images, new_images),
            "images_by_words": unexplained(old_images, new_images @ by_words.T),
            "images_by_images": unexplained(old_images, new_images @ by_images.T),
            "agreement": float((by_words * by_images).sum()) / len(by_words),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def unexplained(old: Tensor, new: Tensor) -> float:
    """Return the share of the variance that one scale does not explain, from 0 to 1.

    Args:
        old, new: features of the same items, ``[items, e]``; their means are subtracted.
    """
    old = old - old.mean(0)
    new = new - new.mean(0)
    product = max(0.0, float((old * new).sum()))
    return 1 - product**2 / float(old.square().sum() * new.square().sum())


def ask_indexes(spaces: Spaces, target: str) -> Iterator[tuple[str, str, MeasuredIndex]]:
    """Yield the kind of the queries, that of the pairs, and what ``index measure`` returns."""
    models = (load_backbone(SOURCE), load_backbone(target))
    items = [spaces.images(model).numpy() for model in models]
    labels = spaces.labels()
    by_names = {
        "labels": labels,
        "query_labels": spaces.class_labels(),
        "queries": tuple(spaces.classes(model).numpy() for model in models),
    }
    by_images = {"labels": labels}
    words = tuple(spaces.words(model).numpy() for model in models)
    for title, queries in (("class names", by_names), ("images", by_images)):
        for source, pairs in (("images", None), ("words", words)):
            yield title, source, cb.measure_index(items[0], items[1], pairs=pairs, **queries)


def measure_indexes(spaces: Spaces) -> pd.DataFrame:
    """Return nDCG@10 of an index of all test images: kept, mapped and encoded again."""
    rows = []
    for target in TARGETS:
        for queries, pairs, measured in ask_indexes(spaces, target):
            row = {"target": target, "queries": queries, "pairs": pairs}
            for option in measured.frame.to_dict("records"):
                name = option["option"]
                row[name] = option[measured.measure]
                if name != OLD:
                    for end in ("", "_low", "_high"):
                        row[f"{name} gain{end}"] = option[f"gain{end}"]
            rows.append({**row, "verdict": measured.verdict})
    return pd.DataFrame(rows)


def show_rotations() -> str:
    """Return the table of what a rotation leaves unexplained, with a row for each target."""
    rows: list[list[TableCell | str]] = []
    for record in records(pd.read_csv(ROTATIONS)):
        values = [number(f"{record[name]:.2f}") for name in LEFT]
        rows.append([code(record["target"]), *values])
    header = [f"Upgrade of {SOURCE} to", *LEFT.values()]
    return render_table(plain_table(header, rows))


def show_indexes() -> str:
    """Return the table of stored indexes."""
    rows: list[list[TableCell | str]] = []
    for record in records(pd.read_csv(INDEXES)):
        row: list[TableCell | str] = [code(record["target"]), record["queries"], record["pairs"]]
        row.append(number(percent(record[OLD])))
        for option in (MAPPED, NEW):
            row.append(number(percent(record[option])))
            row.append(number(with_interval(record, f"{option} gain")))
        row.append(record["verdict"])
        rows.append(row)
    header = [f"Upgrade of {SOURCE} to", "Queries", "Map from", OLD, MAPPED, "gain"]
    header += [NEW, "gain", "Verdict"]
    return render_table(plain_table(header, rows, left=(0, 1, 2, 8)))


def main() -> None:
    """Write both files."""
    spaces = Spaces()
    for path, frame in (
        (ROTATIONS, measure_rotations(spaces)),
        (INDEXES, measure_indexes(spaces)),
    ):
        frame.to_csv(path, index=False, lineterminator="\n", float_format="%.6f")


if __name__ == "__main__":
    main()
