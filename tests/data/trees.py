"""The fifteen datasets as small folders, laid out as the real ones.

All classes are there, with a few tiny images each; :func:`write_cards` copies the cards with
the counts of what was written.
"""

from __future__ import annotations

import io
import json
import random
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from compatbench.data.cards import TaskCard, task_cards
from compatbench.files.project_folders import tasks_folder


@dataclass(frozen=True)
class Sizes:
    """Images of every class, by split; without ``pictures`` the files are empty."""

    train: int = 3
    val: int = 2
    test: int = 1
    pictures: bool = True

    def content(self, label: int, number: int) -> bytes:
        return picture(label, number) if self.pictures else b""


FEW = Sizes()
IMAGENET = task_cards.read("imagenet")
DATASETS = [name for name in task_cards.names() if not name.startswith("mini-")]


@dataclass(frozen=True)
class Tree:
    """A dataset that was written."""

    name: str
    folder: Path
    rows: dict[str, list[tuple[str, int]]]  # by split: path below the images' folder, label

    @property
    def counts(self) -> dict[str, int]:
        return {split: len(rows) for split, rows in self.rows.items() if rows}


def picture(label: int, number: int, kind: str = "JPEG") -> bytes:
    """An image of 16 × 12 pixels: a colour for each of many classes, and noise."""
    return _paint(label % 64, number % 8, kind)


@cache
def _paint(colour: int, noise: int, kind: str) -> bytes:
    base = np.random.default_rng(colour).integers(0, 256, 3)
    pixels = base + np.random.default_rng([colour, noise]).integers(-40, 40, (12, 16, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def build_tree(name: str, root: Path, sizes: Sizes = FEW) -> Tree:
    """Writes a dataset under a data root, in the place where its card looks for it."""
    card = task_cards.read(name)
    source: Any = card.source
    folder = root / source.folder
    rows: dict[str, list[tuple[str, int]]] = {split: [] for split in card.counts}
    images = folder / getattr(source, "images", ".")
    for label in range(len(card.subset or card.classes or IMAGENET.classes)):
        number = 0
        for split in rows:
            for _ in range(getattr(sizes, split)):
                number += 1
                path = _path(card, split, label, number)
                _write(images / path, sizes.content(label, number))
                rows[split].append((path, label))
    if name in ("stanford_cars", "flowers102", "fgvc_aircraft"):
        for seed, split in enumerate(rows):
            random.Random(seed).shuffle(rows[split])
    if source.kind == "class-folders":
        for split in rows.values():
            split.sort(key=lambda row: (row[1], row[0]))
        lines = zip(IMAGENET.folders, IMAGENET.classes, strict=True)
        _write(folder / "classnames.txt", "".join(f"{wnid} {name}\n" for wnid, name in lines))
        _write(images / source.test / "README.txt", "Not a class.\n")
    elif source.kind == "fgvc":
        _write(folder / "variants.txt", "".join(f"{name}\n" for name in card.classes))
        for split, listed in rows.items():
            text = "".join(f"{path[:-4]} {card.classes[label]}\n" for path, label in listed)
            _write(folder / f"images_variant_{split}.txt", text)
    else:
        split_file = {
            split: [[path, label, card.classes[label]] for path, label in listed]
            for split, listed in rows.items()
        }
        _write(folder / source.split, json.dumps(split_file))
    return Tree(name, folder, rows)


def _path(card: TaskCard, split: str, label: int, number: int) -> str:
    """An image's path below the images' folder, written as in the real dataset."""
    source: Any = card.source
    if source.kind == "coop-split":
        slug = re.sub(r"\W", "_", card.classes[label])
        return f"{slug}/{slug}_{1000 * label + number:05}.jpg"
    if source.kind == "fgvc":
        return f"{34309 + 1000 * label + number:07}.jpg"
    wnid = (card.subset or IMAGENET.folders)[label]
    # ImageNet's numbers have no leading zeros (1002... before 5...); other names have spaces.
    file = f"{wnid}_{(10026, 5, 137)[number % 3] + number}.JPEG"
    if card.parent is not None:
        file = f"0.{number:06} _ a title _ 0.9{number}.jpg"
    return f"{getattr(source, split)}/{label if source.numbered else wnid}/{file}"


def _write(path: Path, content: bytes | str) -> None:
    content = content.encode() if isinstance(content, str) else content
    try:
        path.write_bytes(content)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_cards(folder: Path, trees: Iterable[Tree] = ()) -> Path:
    """A folder of all cards for ``COMPATBENCH_TASKS``, with the counts of what was written."""
    shutil.copytree(tasks_folder(), folder, ignore=shutil.ignore_patterns("build", "__pycache__"))
    for tree in trees:
        path = folder / f"{tree.name}.yaml"
        text = path.read_text(encoding="utf-8")
        text, changed = re.subn(r"(?m)^counts: .*$", f"counts: {json.dumps(tree.counts)}", text)
        assert changed == 1
        text = re.sub(r"(?m)^least_per_class: .*\n", "", text)
        path.write_text(text, encoding="utf-8")
    return folder
