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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

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


@dataclass(frozen=True)
class Tree:
    """A dataset that was written.

    Attributes:
        folder: of the dataset.
        rows: by split, (path below the images' folder, label) in the order of the split.
    """

    name: str
    folder: Path
    rows: dict[str, list[tuple[str, int]]]

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
    return BUILDERS[name](card, root / card.source.folder, sizes)  # type: ignore[union-attr]


def write_cards(folder: Path, trees: Iterable[Tree] = ()) -> Path:
    """A folder of all cards, those of the trees with the counts of what was written.

    It is for ``COMPATBENCH_TASKS``.
    """
    shutil.copytree(tasks_folder(), folder, ignore=shutil.ignore_patterns("build", "__pycache__"))
    for tree in trees:
        path = folder / f"{tree.name}.yaml"
        text = path.read_text(encoding="utf-8")
        counts = json.dumps(tree.counts)
        text, changed = re.subn(r"(?m)^counts: .*$", f"counts: {counts}", text)
        assert changed == 1
        text = re.sub(r"(?m)^least_per_class: .*\n", "", text)
        path.write_text(text, encoding="utf-8")
    return folder


def _write(path: Path, content: bytes | str) -> None:
    content = content.encode() if isinstance(content, str) else content
    try:
        path.write_bytes(content)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


Builder = Callable[[TaskCard, Path, Sizes], Tree]


def _coop(card: TaskCard, folder: Path, sizes: Sizes) -> Tree:
    images = folder / (card.source.images or "")  # type: ignore[union-attr]
    rows: dict[str, list[tuple[str, int]]] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(card.classes):
        slug, number = re.sub(r"\W", "_", name), 0
        for split in rows:
            for _ in range(getattr(sizes, split)):
                number += 1
                path = f"{slug}/{slug}_{1000 * label + number:05}.jpg"
                _write(images / path, sizes.content(label, number))
                rows[split].append((path, label))
    if card.name in ("stanford_cars", "flowers102"):
        for seed, split in enumerate(rows):
            random.Random(seed).shuffle(rows[split])
    listed = {
        split: [[path, label, card.classes[label]] for path, label in split_rows]
        for split, split_rows in rows.items()
    }
    _write(folder / card.source.split, json.dumps(listed))  # type: ignore[union-attr]
    return Tree(card.name, folder, rows)


def _fgvc(card: TaskCard, folder: Path, sizes: Sizes) -> Tree:
    rows: dict[str, list[tuple[str, int]]] = {"train": [], "val": [], "test": []}
    for label in range(len(card.classes)):
        number = 0
        for split in rows:
            for _ in range(getattr(sizes, split)):
                number += 1
                path = f"{34309 + 1000 * label + number:07}.jpg"
                _write(folder / "images" / path, sizes.content(label, number))
                rows[split].append((path, label))
    _write(folder / "variants.txt", "".join(f"{name}\n" for name in card.classes))
    for split, listed in rows.items():
        lines = [f"{path[:-4]} {card.classes[label]}\n" for path, label in listed]
        _write(folder / f"images_variant_{split}.txt", "".join(lines))
    return Tree(card.name, folder, rows)


def _imagenet(card: TaskCard, folder: Path, sizes: Sizes) -> Tree:
    rows: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for label, wnid in enumerate(card.folders):
        # Sorted by name: 10026 stands before 5.
        names = {f"{wnid}_{n}.JPEG": n for n in [10026, 5, 137, *range(200, 300)][: sizes.train]}
        for name in sorted(names):
            _write(folder / "images/train" / wnid / name, sizes.content(label, names[name]))
            rows["train"].append((f"train/{wnid}/{name}", label))
        for number in range(sizes.test):
            name = f"ILSVRC2012_val_{label * 50 + number + 1:08}.JPEG"
            _write(folder / "images/val" / wnid / name, sizes.content(label, 1000 + number))
            rows["test"].append((f"val/{wnid}/{name}", label))
    _write_class_names(folder)
    return Tree(card.name, folder, rows)


def _variant(name: Callable[[str, int], str]) -> Builder:
    """A builder of a variant of ImageNet; ``name`` is that of a class's n-th image."""

    def build(card: TaskCard, folder: Path, sizes: Sizes) -> Tree:
        parent = task_cards.read("imagenet")
        place, rows = card.source.test, []  # type: ignore[union-attr]
        for label, wnid in enumerate(card.subset or parent.folders):
            inside = str(label) if card.source.numbered else wnid  # type: ignore[union-attr]
            known_as = parent.names[parent.folders.index(wnid)].replace("/", " ")
            files = sorted(name(known_as, number) for number in range(sizes.test))
            for number, file in enumerate(files):
                _write(folder / place / inside / file, sizes.content(label, 2000 + number))
                rows.append((f"{place}/{inside}/{file}", label))
        if card.subset:
            _write(folder / place / "README.txt", "Not a class.\n")
        _write_class_names(folder)
        return Tree(card.name, folder, {"test": rows})

    return build


def _write_class_names(folder: Path) -> None:
    """CoOp's ``classnames.txt``."""
    card = task_cards.read("imagenet")
    lines = [f"{wnid} {name}\n" for wnid, name in zip(card.folders, card.classes, strict=True)]
    _write(folder / "classnames.txt", "".join(lines))


COOP = ("caltech101", "oxford_pets", "stanford_cars", "flowers102", "food101")
COOP += ("sun397", "dtd", "eurosat", "ucf101")
BUILDERS: dict[str, Builder] = {
    **dict.fromkeys(COOP, _coop),
    "fgvc_aircraft": _fgvc,
    "imagenet": _imagenet,
    "imagenet_v2": _variant(lambda name, number: f"{number:040x}.jpeg"),
    "imagenet_sketch": _variant(lambda name, number: f"sketch_{number}.JPEG"),
    "imagenet_a": _variant(lambda name, number: f"0.{number:06} _ {name} _ 0.9{number}.jpg"),
    "imagenet_r": _variant(lambda name, number: f"art_{number}.jpg"),
}
