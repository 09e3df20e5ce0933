"""Writers of small datasets of two classes, one for each layout."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from data.trees import picture

CLASSES = ("Alpine_Ibex", "redFox")  # of folders
NAMES = ("Alpine Ibex", "red Fox")
COUNTS = {"train": 10, "test": 4}  # images of both classes


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_folders(folder: Path, count: int = 8, around: str = "") -> Path:
    """``[around/]class/0.png`` and so on."""
    for label, name in enumerate(CLASSES):
        for number in range(count):
            write(folder / around / name / f"{number}.png", picture(label, number, "PNG"))
    return folder


def write_members(path: Path, *members: tuple[str, bytes]) -> Path:
    """A tar shard of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def shard_members(labels: Iterable[int], first: int = 0) -> list[tuple[str, bytes]]:
    """``s0000000.cls``, ``s0000000.webp`` and so on."""
    members = []
    for number, label in enumerate(labels, start=first):
        kind = ("webp", "png", "jpg")[number % 3]
        content = picture(label, number, {"jpg": "JPEG"}.get(kind, kind.upper()))
        stem = f"s{number:07}"
        members += [(f"{stem}.cls", str(label).encode()), (f"{stem}.{kind}", content)]
    return members


def write_shard(path: Path, labels: Iterable[int], first: int = 0) -> Path:
    return write_members(path, *shard_members(labels, first))


def write_parquet(path: Path, labels: list[int], names: bool = True) -> None:
    """As the Hub has it: an image is a struct of bytes and a path, and labels have names."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    images = [
        {"bytes": picture(label, number, "PNG"), "path": None}
        for number, label in enumerate(labels)
    ]
    feature = {"names": [*NAMES], "_type": "ClassLabel"}
    about = json.dumps({"info": {"features": {"label": feature}}}).encode()
    table = pa.table({"image": images, "label": labels})
    path.parent.mkdir(parents=True, exist_ok=True)
    table = table.replace_schema_metadata({b"huggingface": about} if names else None)
    pq.write_table(table, path, row_group_size=3)


def _class_folders(folder: Path) -> None:
    for split, count in COUNTS.items():
        write_folders(folder, count // 2, split)


def _split_file(folder: Path) -> None:
    write_folders(folder / "images", sum(COUNTS.values()) // 2)
    rows: dict[str, list[Any]] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(CLASSES):
        for number in range(sum(COUNTS.values()) // 2):
            split = "test" if number < COUNTS["test"] // 2 else "train"
            rows[split].append([f"{name}/{number}.png", label, NAMES[label]])
    write(folder / "split.json", json.dumps(rows))


def _fgvc(folder: Path) -> None:
    write(folder / "variants.txt", "\n".join(NAMES))
    start = 34309
    for split in ("train", "val", "test"):
        lines = []
        for number in range(COUNTS.get(split, 0)):
            write(folder / "images" / f"{start:07}.jpg", picture(number % 2, number))
            lines.append(f"{start:07} {NAMES[number % 2]}\n")
            start += 1
        write(folder / f"images_variant_{split}.txt", "".join(lines))


def _webdataset(folder: Path) -> None:
    write(folder / "classnames.txt", "\n".join(NAMES))
    write_shard(folder / "train" / "0.tar", [0, 1] * 3)
    write_shard(folder / "train" / "1.tar", [0, 1] * 2, first=6)
    write(folder / "train" / "nshards.txt", "2")
    write_shard(folder / "test" / "0.tar", [1, 0] * 2)
    write(folder / "test" / "nshards.txt", "1\n")


def _parquet(folder: Path) -> None:
    for split, count in COUNTS.items():
        write_parquet(folder / "data" / f"{split}-00000-of-00001.parquet", [0, 1] * (count // 2))


def _table(folder: Path) -> None:
    _class_folders(folder)
    lines = [
        f"{split}/{name}/{number}.png,{name},{split}\n"
        for split, count in COUNTS.items()
        for name in CLASSES
        for number in range(count // 2)
    ]
    write(folder / "labels.csv", "".join(["path,label,split\n", *lines]))


# Each layout with its writer and what its card says of it, apart from the folder ``pets``.
LAYOUTS: dict[str, tuple[Callable[[Path], None], dict[str, str]]] = {
    "class-folders": (_class_folders, {"train": "train", "test": "test"}),
    "coop-split": (_split_file, {"split": "split.json", "images": "images"}),
    "fgvc": (_fgvc, {"images": "images"}),
    "webdataset": (_webdataset, {"train": "train", "test": "test"}),
    "parquet": (_parquet, {"train": "data/train-*.parquet", "test": "data/test-*.parquet"}),
    "table": (_table, {"file": "pets/labels.csv"}),
}
