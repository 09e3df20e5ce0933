"""Class folders: ImageNet's, its variants', and anybody's."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from data.conftest import SetUp, load_again
from data.trees import Sizes, picture

from compatbench.data.cards.task import ClassFoldersSource
from compatbench.data.draws import draw_few_shot
from compatbench.data.labels import Classes
from compatbench.data.sources.layouts import read_class_folders
from compatbench.data.task import inspect_task, load_task
from compatbench.errors import CompatbenchError

CLASSES = Classes("pets", ("cat", "big dog"), ("cat", "big_dog"), ("cat", "big_dog"))


def source(**fields: Any) -> ClassFoldersSource:
    given = {"kind": "class-folders", "folder": "pets", "train": "train", "test": "test"}
    return ClassFoldersSource.model_validate(given | fields)


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


def ids(samples: Any) -> list[str]:
    return [sample.id for sample in samples]


def test_a_split_is_listed_class_by_class_sorted_by_name(pets: Path) -> None:
    found = read_class_folders(pets, source(val="val"), CLASSES).samples
    assert {split: len(samples) for split, samples in found.items()} == {
        "train": 24,
        "val": 4,
        "test": 6,
    }
    # As strings: 10 and 11 stand before 2.
    numbers = [f"{n}.png" for n in (0, 1, 10, 11, *range(2, 10))]
    assert ids(found["train"][:12]) == [f"train/cat/{name}" for name in numbers]
    assert [sample.label for sample in found["train"]] == [0] * 12 + [1] * 12


def test_the_order_does_not_hang_on_the_file_system(
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ids(read_class_folders(pets, source(), CLASSES).samples["train"])
    listdir = os.listdir

    def shuffled(folder: Any) -> list[str]:
        names = listdir(folder)
        random.Random(1).shuffle(names)
        return names

    monkeypatch.setattr(os, "listdir", shuffled)
    assert ids(read_class_folders(pets, source(), CLASSES).samples["train"]) == before


def test_what_is_hidden_or_no_image_is_passed_over(pets: Path) -> None:
    before = ids(read_class_folders(pets, source(), CLASSES).samples["train"])
    for name in (".DS_Store", "._0.png", "Thumbs.db", "notes.txt"):
        (pets / "train" / "cat" / name).write_bytes(b"x")
    (pets / "train" / ".cache").mkdir()
    (pets / "train" / "README.txt").write_bytes(b"x")
    assert ids(read_class_folders(pets, source(), CLASSES).samples["train"]) == before


def test_validation_images_may_be_the_test_images_as_in_coop(pets: Path) -> None:
    """CoOp's rule for ImageNet; the shipped card does not use it."""
    samples = read_class_folders(pets, source(val="test"), CLASSES).samples
    train, val = draw_few_shot(samples["train"], samples["val"], 2, 1)
    random.seed(1)
    expected = [random.sample(range(12), 2) for _ in range(2)]
    held_out = [random.sample(range(3), 2) for _ in range(2)]
    assert train == [samples["train"][12 * c + i] for c in range(2) for i in expected[c]]
    assert val == [samples["test"][3 * c + i] for c in range(2) for i in held_out[c]]


def test_images_may_lie_without_the_folder_that_coop_puts_them_in(set_up: SetUp) -> None:
    """torchvision and others keep ImageNet's train/ and val/ directly in its folder."""
    folder = set_up("imagenet", sizes=Sizes(2, 0, 1, pictures=False))["imagenet"].folder
    before = ids(load_task("imagenet").split("train"))
    (folder / "images" / "train").rename(folder / "train")
    (folder / "images" / "val").rename(folder / "val")
    (folder / "images").rmdir()
    assert inspect_task("imagenet").state == "found"
    load_again()
    assert ids(load_task("imagenet").split("train")) == before


def test_unsorted_validation_images_are_told(set_up: SetUp) -> None:
    folder = set_up("imagenet", sizes=Sizes(1, 0, 1, pictures=False))["imagenet"].folder
    val = folder / "images" / "val"
    val.rename(folder / "sorted")
    val.mkdir()
    for number in range(3):
        (val / f"ILSVRC2012_val_{number:08}.JPEG").write_bytes(b"")
    with pytest.raises(CompatbenchError, match="holds 3 files and no class folders; sort them"):
        load_task("imagenet")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("train/cat", "train/lion", "has no folder 'cat', class 'cat' of 'pets'"),
        ("val/cat", "test/lion", "has a folder 'lion' that is no class of 'pets'"),
        ("test", "tests", "test is missing"),
    ],
)
def test_folders_that_are_not_the_classes_are_named(
    pets: Path, old: str, new: str, message: str
) -> None:
    (pets / old).rename(pets / new)
    with pytest.raises(CompatbenchError, match=message):
        read_class_folders(pets, source(), CLASSES)


def test_a_file_in_a_folder_s_place_is_named(pets: Path) -> None:
    (pets / "test").rename(pets / "other")
    (pets / "test").write_bytes(b"")
    with pytest.raises(CompatbenchError, match=r"test cannot be read: Not a directory"):
        read_class_folders(pets, source(), CLASSES)


def test_a_refused_listing_is_named(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Any) -> list[str]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(CompatbenchError, match=r"train cannot be read: Permission denied"):
        read_class_folders(pets, source(), CLASSES)


@pytest.mark.parametrize("name", ["imagenet_v2", "imagenet_a"])
def test_coop_s_list_of_names_is_held_against_the_card(name: str, set_up: SetUp) -> None:
    tree = set_up(name, sizes=Sizes(pictures=False))[name]
    path = tree.folder / "classnames.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(reversed(lines)))
    with pytest.raises(CompatbenchError, match=r"classnames.txt: label 0 is 'n\d+ "):
        load_task(name)
    report = inspect_task(name)
    assert (report.state, report.class_order) == ("wrong", False)


def test_only_a_list_of_names_tells_the_order_of_numbered_folders(set_up: SetUp) -> None:
    folder = set_up("imagenet_v2", sizes=Sizes(pictures=False))["imagenet_v2"].folder
    assert inspect_task("imagenet_v2").class_order is True
    (folder / "classnames.txt").unlink()
    report = inspect_task("imagenet_v2")
    assert (report.state, report.class_order) == ("found", None)
