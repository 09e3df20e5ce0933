"""Class folders: ImageNet's, its variants', and anybody's."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from data.conftest import SetUp, load_again
from data.trees import Sizes, picture

from compatbench.data.cards.sources import ClassFoldersSource
from compatbench.data.layouts.listing import Classes
from compatbench.data.layouts.scanners import open_layout
from compatbench.data.task import inspect_task, load_task
from compatbench.errors import CompatbenchError

CLASSES = Classes("pets", ("cat", "big dog"), ("cat", "big_dog"), ("cat", "big_dog"))


def read(folder: Path, **fields: str) -> dict[str, Any]:
    card = {"kind": "class-folders", "folder": "pets", "train": "train", "test": "test"} | fields
    return open_layout(folder, ClassFoldersSource.model_validate(card), CLASSES).samples


def ids(samples: Any) -> list[str]:
    return [sample.id for sample in samples]


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Anybody's images: train, val and test, in each a folder of every class."""
    folder = tmp_path / "pets"
    for split, count in (("train", 12), ("val", 2), ("test", 3)):
        for label, name in enumerate(CLASSES.folders):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                (place / f"{number}.png").write_bytes(picture(label, number, "PNG"))
    return folder


def test_a_split_is_listed_class_by_class_sorted_by_name(
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any order of the file system; hidden files and those that are no images are ignored."""
    for name in (".DS_Store", "._0.png", "Thumbs.db", "notes.txt"):
        (pets / "train" / "cat" / name).write_bytes(b"x")
    (pets / "train" / ".cache").mkdir()
    (pets / "train" / "README.txt").write_bytes(b"x")
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: random.sample(n := listdir(folder), len(n)))
    found = read(pets, val="val")
    assert {s: len(samples) for s, samples in found.items()} == {"train": 24, "val": 4, "test": 6}
    # As strings: 10 and 11 stand before 2.
    numbers = [f"{n}.png" for n in (0, 1, 10, 11, *range(2, 10))]
    assert ids(found["train"][:12]) == [f"train/cat/{name}" for name in numbers]
    assert [sample.label for sample in found["train"]] == [0] * 12 + [1] * 12
    assert read(pets, val="test")["val"] == found["test"]


def test_images_may_lie_without_the_folder_that_coop_puts_them_in(set_up: SetUp) -> None:
    """torchvision and others keep ImageNet's train/ and val/ directly in its folder."""
    folder = set_up("imagenet", sizes=Sizes(2, 0, 1, pictures=False))["imagenet"].folder
    before = ids(load_task("imagenet").split("train"))
    kaggle = folder / "ILSVRC" / "Data"
    kaggle.mkdir(parents=True)
    (folder / "images").rename(kaggle / "CLS-LOC")
    load_again()
    assert ids(load_task("imagenet").split("train")) == before
    for split in ("train", "val"):
        (kaggle / "CLS-LOC" / split).rename(folder / split)
    (kaggle / "CLS-LOC").rmdir()
    assert inspect_task("imagenet").state == "found"
    load_again()
    assert ids(load_task("imagenet").split("train")) == before
    (folder / "val" / "n01440764").rename(folder / "n01440764")
    report = inspect_task("imagenet")  # a folder that is missing is no other order
    assert (report.state, report.class_order) == ("wrong", None)
    assert "val has no folder 'n01440764', class 'tench'" in report.message


def test_unsorted_validation_images_are_told(pets: Path) -> None:
    (pets / "val").rename(pets / "sorted")
    (pets / "val").mkdir()
    for number in range(3):
        (pets / "val" / f"ILSVRC2012_val_{number:08}.JPEG").write_bytes(b"")
    with pytest.raises(CompatbenchError, match="holds 3 files and no class folders; sort them"):
        read(pets, val="val")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("train/cat", "train/lion", "has no folder 'cat', class 'cat' of 'pets'"),
        ("val/cat", "test/lion", "has a folder 'lion' that is not a class of 'pets'"),
        ("test", "tests", "test is missing"),
    ],
)
def test_folders_that_are_not_the_classes_are_named(
    pets: Path, old: str, new: str, message: str
) -> None:
    (pets / old).rename(pets / new)
    with pytest.raises(CompatbenchError, match=message):
        read(pets)


@pytest.mark.parametrize("name", ["imagenet_v2", "imagenet_a"])
def test_coop_s_list_of_names_is_held_against_the_card(name: str, set_up: SetUp) -> None:
    """Only this list tells the order of ImageNetV2's folders, which are numbers."""
    path = set_up(name)[name].folder / "classnames.txt"
    assert inspect_task(name).class_order is True
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    with pytest.raises(CompatbenchError, match=r"classnames.txt: label 0 is 'n\d+ "):
        load_task(name)
    report = inspect_task(name)
    assert (report.state, report.class_order) == ("wrong", False)
    path.unlink()
    report = inspect_task(name)
    assert (report.state, report.class_order) == ("found", None if name == "imagenet_v2" else True)
