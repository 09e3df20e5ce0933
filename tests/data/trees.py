"""Small datasets in each layout that a card can name.

They have all classes of the real datasets, with a few tiny images each. :func:`write_cards` copies
the cards with the numbers of images that were written.
"""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compatbench.data import task
from compatbench.data.cards import TaskCard, task_cards
from compatbench.data.cards.sources import OnDisk
from compatbench.data.images.source import Sample
from compatbench.files.project_folders import tasks_folder

CLASSES = ("Alpine_Ibex", "redFox")  # folders of a dataset of two classes, ``pets``
NAMES = ("Alpine Ibex", "red Fox")
COUNTS = {"train": 10, "test": 4}  # images of both classes
# The source of ``pets`` in a card of each layout.
LAYOUTS: dict[str, dict[str, str]] = {
    "class-folders": {"train": "train", "test": "test"},
    "coop-split": {"split": "split.json", "images": "images"},
    "fgvc": {"images": "images"},
    "webdataset": {"train": "train", "test": "test"},
    "parquet": {"train": "data/train-*.parquet", "test": "data/test-*.parquet"},
    "table": {"file": "pets/labels.csv"},
}


IMAGENET = task_cards.read("imagenet")
DATASETS = [name for name in task_cards.names() if isinstance(task_cards.read(name).source, OnDisk)]


@dataclass(frozen=True)
class Tree:
    """A dataset that was written."""

    name: str
    folder: Path
    rows: dict[str, list[tuple[str, int]]]  # by split: path below the images' folder, label

    @property
    def counts(self) -> dict[str, int]:
        return {split: len(rows) for split, rows in self.rows.items() if rows}


# Writes a dataset, and points the environment to it.
SetUp = Callable[..., Tree]


def load_again() -> None:
    """Forget the tasks that were loaded."""
    task._load.cache_clear()


def picture(label: int, number: int, kind: str = "JPEG") -> bytes:
    """Return an image of 16 × 12 pixels: a colour for each of many classes, and noise."""
    return _paint(label % 64, number % 8, kind)


@cache
def _paint(colour: int, noise: int, kind: str) -> bytes:
    base = np.random.default_rng(colour).integers(0, 256, 3)
    pixels = base + np.random.default_rng([colour, noise]).integers(-40, 40, (12, 16, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        content = content.encode()
    path.write_bytes(content)
    return path


Spoil = Callable[[Path], object]  # what a test does to a dataset


def rename(old: str, new: str) -> Spoil:
    return lambda folder: (folder / old).rename(folder / new)


def content(name: str, text: str | bytes) -> Spoil:
    return lambda folder: write(folder / name, text)


def write_folders(folder: Path, count: int = 8, around: str = "") -> Path:
    """Write the images ``[around/]class/0.png`` and so on of ``pets``."""
    for label, name in enumerate(CLASSES):
        for number in range(count):
            write(folder / around / name / f"{number}.png", picture(label, number, "PNG"))
    return folder


def write_members(path: Path, *members: tuple[str, bytes]) -> Path:
    """Write a tar shard of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def shard_members(labels: Iterable[int], first: int = 0) -> list[tuple[str, bytes]]:
    """Return the files ``s0000000.cls``, ``s0000000.webp`` and so on, with their contents."""
    formats = (("webp", "WEBP"), ("png", "PNG"), ("jpg", "JPEG"))
    members = []
    for number, label in enumerate(labels, start=first):
        ending, kind = formats[number % 3]
        members.append((f"s{number:07}.cls", str(label).encode()))
        members.append((f"s{number:07}.{ending}", picture(label, number, kind)))
    return members


def write_shard(path: Path, labels: Iterable[int], first: int = 0) -> Path:
    return write_members(path, *shard_members(labels, first))


def write_rows(path: Path, labels: list[int], names: bool = True) -> None:
    """Write a parquet file of the Hub.

    An image is a struct of bytes and a path, and labels have names.
    """
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": picture(label, i, "PNG"), "path": None} for i, label in enumerate(labels)]
    features = {"image": {"_type": "Image"}, "label": {"names": [*NAMES], "_type": "ClassLabel"}}
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": image, "label": pa.int64()}, about if names else None)
    table = pa.table({"image": images, "label": labels}, schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)


def build_tree(  # noqa: C901  (a branch for every kind of source)
    card: TaskCard, root: Path, train: int = 3, val: int = 2, test: int = 1, pictures: bool = True
) -> Tree:
    """Write a dataset under a data root, in the place where its card looks for it.

    Every class has this many images in each split; without ``pictures`` the files are empty.
    """
    sizes = dict(train=train, val=val, test=test)
    source: Any = card.source
    folder = root / source.folder
    kind = source.kind
    classes = card.subset or card.folders or card.classes or IMAGENET.folders
    rows: dict[str, list[tuple[str, int]]] = {split: [] for split in card.counts}
    images = folder / getattr(source, "images", ".")
    for label, name in enumerate(classes):
        number = 0
        slug = re.sub(r"\W", "_", name)
        for split in rows:
            for place in range(sizes[split]):
                number += 1
                # ImageNet's numbers have no leading zeros (10... before 2...).
                path = f"{getattr(source, split, split)}/{name}/{(3, 10)[place % 2] + place}.jpg"
                if kind == "class-folders" and source.numbered:
                    path = f"{source.test}/{label}/0.{number} _ a title.jpg"
                elif kind == "coop-split":
                    path = f"{slug}/{1000 * label + number:05}.jpg"
                elif kind == "fgvc":
                    path = f"{34309 + 1000 * label + number:07}.jpg"
                rows[split].append((path, label))
    if card.name in ("stanford_cars", "flowers102", "fgvc_aircraft"):
        for seed, listed in enumerate(rows.values()):
            random.Random(seed).shuffle(listed)
    labels: dict[str, list[int]] = {}
    for split, listed in rows.items():
        labels[split] = [label for _, label in listed]
    if kind == "webdataset":
        for split, listed in labels.items():
            half = len(listed) // 2
            write_shard(folder / split / "0.tar", listed[:half])
            write_shard(folder / split / "1.tar", listed[half:], first=half)
            write(folder / split / "nshards.txt", "2\n")
        write(folder / "classnames.txt", "\n".join(card.classes))
    elif kind == "parquet":
        for split, listed in labels.items():
            write_rows(folder / "data" / f"{split}-00000-of-00001.parquet", listed)
    else:
        for listed in rows.values():
            for number, (path, label) in enumerate(listed):
                image = picture(label, number) if pictures else b""
                write(images / path, image)
    if kind == "class-folders":
        for listed in rows.values():
            listed.sort(key=lambda row: (row[1], row[0]))
        write(images / source.test / "README.txt", "Not a class.\n")
        if card.name.startswith("imagenet"):
            lines = zip(IMAGENET.folders, IMAGENET.classes, strict=True)
            write(folder / "classnames.txt", "".join(f"{wnid} {name}\n" for wnid, name in lines))
    elif kind == "fgvc":
        write(folder / "variants.txt", "".join(f"{name}\n" for name in card.classes))
        for split in ("train", "val", "test"):
            lines = (f"{path[:-4]} {card.classes[label]}\n" for path, label in rows.get(split, ()))
            write(folder / f"images_variant_{split}.txt", "".join(lines))
    elif kind == "coop-split":
        split_file: dict[str, list[Any]] = {split: [] for split in ("train", "val", "test")}
        for split, listed in rows.items():
            split_file[split] = [[path, label, card.classes[label]] for path, label in listed]
        write(folder / source.split, json.dumps(split_file))
    elif kind == "table":
        table = ["path,label,split"]
        for split, listed in rows.items():
            table += [f"{path},{classes[label]},{split}" for path, label in listed]
        write(root / source.file, "\n".join([*table, ""]))
    return Tree(card.name, folder, rows)


def copy_tasks(folder: Path) -> None:
    """Copy the cards and drawings of the project; weights, which are large, become links."""

    def copy(source: str, target: str) -> None:
        if source.endswith(".safetensors"):
            Path(target).symlink_to(source)
        else:
            shutil.copy(source, target)

    ignored = shutil.ignore_patterns("build", "__pycache__")
    shutil.copytree(tasks_folder(), folder, ignore=ignored, copy_function=copy)


def write_cards(folder: Path, trees: Iterable[Tree] = ()) -> Path:
    """Copy all cards for ``COMPATBENCH_TASKS``, with the numbers of images that were written."""
    copy_tasks(folder)
    for tree in trees:
        path = folder / f"{tree.name}.yaml"
        text = path.read_text(encoding="utf-8")
        text, changed = re.subn(r"(?m)^counts: .*$", f"counts: {json.dumps(tree.counts)}", text)
        assert changed == 1
        path.write_text(re.sub(r"(?m)^least_per_class: .*\n", "", text), encoding="utf-8")
    return folder


def dassl_draw(
    train: list[Sample], val: list[Sample], shots: int, seed: int
) -> tuple[list[Sample], ...]:
    """Draw as Dassl, with a generator of Python's: training images first, then validation."""
    generator = random.Random(seed)
    results = []
    for items, wanted in ((train, shots), (val, min(shots, 4))):
        drawn = []
        for label in dict.fromkeys(item.label for item in items):
            of_class = [item for item in items if item.label == label]
            if len(of_class) >= wanted:
                of_class = generator.sample(of_class, wanted)
            drawn += of_class
        results.append(drawn)
    return tuple(results)
