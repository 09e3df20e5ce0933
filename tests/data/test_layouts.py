"""Layouts of datasets: each is read as its card says, recognised, and reported by the doctor."""

from __future__ import annotations

import gzip
import json
import os
import random
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from data.trees import (
    CLASSES,
    COUNTS,
    IMAGENET,
    LAYOUTS,
    NAMES,
    SetUp,
    Spoil,
    build_tree,
    content,
    load_again,
    rename,
    shard_members,
    write,
    write_members,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import compatbench as cb
from compatbench.data.cards import TaskCard
from compatbench.data.images.dataset_files import WrongClasses
from compatbench.data.images.source import SPLITS
from compatbench.data.layouts.containers import hub_class_names
from compatbench.data.layouts.scanners import read_split
from compatbench.data.task import Task, inspect_task, load_task
from compatbench.errors import CompatbenchError

RECOGNISED = ("class-folders", "webdataset", "parquet", "table")


def write_layout(work: Path, layout: str, **fields: Any) -> Path:
    """Write a dataset into the folder ``pets``, and its card."""
    card = {
        "name": "pets",
        "title": "Pets",
        "classes": [*NAMES],
        "folders": [*CLASSES],
        "templates": ["a photo of a {}."],
        "source": {"kind": layout, "folder": "pets", **LAYOUTS[layout], **fields},
        "counts": COUNTS,
        "least_per_class": {"test": 1},
        "licence": "none",
    }
    write(work / "pets.yaml", yaml.safe_dump(card))
    load_again()
    build_tree(TaskCard.model_validate(card), work, 5, 0, 2)
    return work / "pets"


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def images_of(task: Task) -> dict[str, Counter[tuple[int, bytes]]]:
    """Return the labels and contents of a task's images by split."""
    found: dict[str, Counter[tuple[int, bytes]]] = {}
    for split, samples in task.source.samples.items():
        found[split] = Counter()
        for sample in samples:
            found[split][sample.label, task.source.content(sample)] += 1
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_read_and_recognised_in_place(work: Path, layout: str) -> None:
    folder = write_layout(work, layout)
    before = files_in(folder)
    task = load_task("pets")
    for split, count in COUNTS.items():
        samples = task.source.samples[split]
        assert Counter(sample.label for sample in samples) == {0: count // 2, 1: count // 2}
        for sample in samples:
            image = task.source.image(sample)
            assert (image.mode, image.size) == ("RGB", (16, 12))
        assert task.fingerprint(samples) == task.fingerprint(samples)
    report = inspect_task("pets")
    assert (report.state, report.found) == ("found", COUNTS)
    if layout in RECOGNISED:
        made = cb.new_task("pets", "again")
        assert (made.task.names, made.task.counts) == (NAMES, COUNTS)
        assert images_of(load_task("again")) == images_of(task)
        assert inspect_task("again").state == "found"
    assert files_in(folder) == before


def replace(name: str, old: str, new: str) -> Spoil:
    return lambda folder: write(folder / name, (folder / name).read_text().replace(old, new))


def change_rows(change: Callable[[Any], object]) -> Spoil:
    """Change the rows of each split in a split file."""

    def spoil(folder: Path) -> None:
        listed = json.loads((folder / "split.json").read_text())
        for rows in listed.values():
            change(rows)
        write(folder / "split.json", json.dumps(listed))

    return spoil


def shard(*members: tuple[str, bytes]) -> Spoil:
    return lambda folder: write_members(folder / "test" / "0.tar", *members)


def false_shard(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> Spoil:
    """Write a shard with one member whose header declares so many bytes."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.type = kind
    info.linkname = "/etc/passwd"
    return content("test/0.tar", info.tobuf(tarfile.GNU_FORMAT) + bytes(10 * 1024))


def long_header(kind: bytes) -> Spoil:
    """Write a shard whose first member has a header of 400 KB of digits."""
    info = tarfile.TarInfo("pax")
    info.size, info.type = 400_000, kind
    return content("test/0.tar", info.tobuf(tarfile.GNU_FORMAT) + b"1" * 409_600)


def change_shard(change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "test" / "0.tar"
        write(path, change(path.read_bytes()))

    return spoil


def swap(rows: list[list[Any]]) -> None:
    """Give class 0 the label 1 and class 1 the label 0."""
    for row in rows:
        row[1] = 1 - row[1]


def flatten(folder: Path) -> None:
    """Move the test images out of the folders of their classes."""
    for number, path in enumerate(sorted(folder.glob("test/*/*"))):
        path.rename(folder / "test" / f"{number}.jpg")
    for name in CLASSES:
        (folder / "test" / name).rmdir()
    (folder / "test" / "README.txt").unlink()


def drop_last_class(rows: list[list[Any]]) -> None:
    rows[:] = [row for row in rows if row[1] == 0]


IBEX, FOX = CLASSES
LISTED = "images_variant_test.txt"
NO_LABEL = "'s0000000' is not an image with a label"
LINE = r"labels.csv:\d+: "
WRONG: list[tuple[str, Spoil, str]] = [
    ("class-folders", rename(f"train/{IBEX}", "train/lion"), f"has no folder '{IBEX}', class 'Alp"),
    ("class-folders", rename(f"train/{IBEX}", IBEX), f"train has no folder '{IBEX}'"),
    ("class-folders", content("test/lion/0.png", b""), "a folder 'lion' that is not a class of 'p"),
    ("class-folders", rename("test", "tests"), "test is missing"),
    ("class-folders", rename(f"test/{FOX}/3.jpg", "test/0.jpg"), "test has 3 images, its card co"),
    ("class-folders", flatten, "holds 4 files and no class folders; sort them"),
    (
        "class-folders",
        replace("../pets.yaml", "test: 1\n", "test: 3\n"),
        "test has 2 images of 'Al",
    ),
    ("coop-split", rename("split.json", "gone"), "split.json is missing"),
    ("coop-split", rename("images", "gone"), "images is missing"),
    ("coop-split", replace("split.json", '"red Fox"', '"cat"'), "label 1 is 'cat', .*'red Fox'"),
    ("coop-split", change_rows(swap), r"label 0 is 'red.*Ibex' \(the same names in another order"),
    ("coop-split", change_rows(drop_last_class), "1 classes, the card of 'pets' has 2"),
    ("coop-split", change_rows(lambda rows: rows and rows.pop()), "train has 9 images, its card c"),
    ("coop-split", change_rows(lambda rows: rows.clear()), "lists no image"),
    ("fgvc", rename("variants.txt", "gone"), "variants.txt is missing"),
    ("fgvc", content("variants.txt", "\n".join(reversed(NAMES))), "label 0 is .* another order"),
    ("fgvc", content(LISTED, f"../../1 {NAMES[0]}"), f"{LISTED}: a line holds an image's number"),
    ("fgvc", content(LISTED, "1 707"), f"{LISTED}: .*one of variants.txt, not '1 707'"),
    ("webdataset", false_shard("a.png", 0, tarfile.SYMTYPE), "'a.png' is not a plain file"),
    ("webdataset", false_shard("a.cls", 0, tarfile.FIFOTYPE), "'a.cls' is not a plain file"),
    ("webdataset", change_shard(lambda tar: tar[:1700]), "0.tar cannot be read"),
    ("webdataset", change_shard(gzip.compress), "0.tar cannot be read"),
    ("webdataset", rename("test/0.tar", "gone"), "0.tar is missing"),
    ("webdataset", shard(*shard_members([1])[:1]), NO_LABEL),
    ("webdataset", shard(*shard_members([1])[1:]), NO_LABEL),
    ("webdataset", shard(*shard_members([-1])), NO_LABEL),
    ("webdataset", shard(*shard_members([7])), "s0000000: label 7 is not a class of 'pets'"),
    ("webdataset", shard(("a.cls", b"x" * 99)), "0.tar cannot be read: .*invalid literal"),
    ("webdataset", shard(("a\nb.cls", b"1")), "is not a plain file"),
    ("webdataset", shard(("../a.cls", b"1")), "'../a.cls' leads out of the shard"),
    ("webdataset", shard(("x/../../a.png", b"1")), "'x/../../a.png' leads out of the shard"),
    ("webdataset", shard(("/a.cls", b"1")), "'/a.cls' leads out of the shard"),
    ("webdataset", shard(("a.cls", b"1"), ("a.cls", b"0")), "two labels are named 'a'"),
    ("webdataset", shard(("a.png", b"1"), ("a.png", b"2")), "two images are named 'a'"),
    ("webdataset", shard(("a.png", b"1"), ("a.jpg", b"2")), "two images are named 'a'"),
    ("webdataset", long_header(tarfile.XHDTYPE), "a header has more than 8,192 bytes"),
    ("webdataset", long_header(tarfile.GNUTYPE_LONGNAME), "a header has more than 8,192 bytes"),
    ("webdataset", content("test/nshards.txt", "9" * 5000), "it must contain the number of shards"),
    ("webdataset", content("test/nshards.txt", "-1"), "it must contain the number of shards"),
    ("webdataset", content("classnames.txt", f"{NAMES[1]}\n{NAMES[0]}\n"), "0 is 'red.*another or"),
    ("webdataset", content("classnames.txt", "cat\n"), "1 classes, the card of 'pets' has 2"),
    ("webdataset", false_shard("a.png", 2**40), "0.tar cannot be read"),
    ("webdataset", false_shard("a.txt", 2**40), "0.tar cannot be read"),
    ("webdataset", false_shard("a.png", -512), "0.tar cannot be read"),
    ("webdataset", false_shard("a.txt", -512), "0.tar cannot be read"),
    ("webdataset", false_shard("././@LongLink", 2**62, tarfile.GNUTYPE_LONGNAME), "0.tar cannot"),
    ("webdataset", false_shard("pax", 2**62, tarfile.XHDTYPE), "0.tar cannot be read"),
    ("webdataset", false_shard("a.png", 512, tarfile.GNUTYPE_SPARSE), "0.tar cannot be read"),
    ("parquet", rename("data", "gone"), r"has no file 'data/train-\*.parquet'"),
    ("parquet", content("data/test-1.parquet", b"PAR1 broken"), "parquet cannot be read: "),
    ("table", replace("labels.csv", "path,label,split", "path,label"), "Expected 2 fields in line"),
    ("table", replace("labels.csv", "train/", "../x/"), f"{LINE}path .* leaves the dataset's fol"),
    ("table", replace("labels.csv", f",{IBEX},", ",lion,"), f"{LINE}label 'lion' is not a class"),
    ("table", replace("labels.csv", ",train", ",later"), f"{LINE}split 'later' is none of train"),
    ("table", replace("labels.csv", ",train\n", "\n"), f"{LINE}split '' is none of train"),
    ("table", rename(f"test/{FOX}", "gone"), f"test/{FOX}/3.jpg is missing"),
]


@pytest.mark.parametrize(
    ("layout", "spoil", "message"), WRONG, ids=[f"{n}-{row[0]}" for n, row in enumerate(WRONG)]
)
def test_reader_and_doctor_report_the_same_mismatch(
    work: Path, layout: str, spoil: Spoil, message: str
) -> None:
    folder = write_layout(work, layout)
    spoil(folder)
    before = files_in(work)
    with pytest.raises(CompatbenchError, match=message) as error:
        load_task("pets").source.check_files()
    report = inspect_task("pets")
    assert report.state == "wrong"
    assert (report.class_order is False) == isinstance(error.value, WrongClasses)
    assert str(error.value).replace("; see docs/datasets.md", "") == report.message
    assert report.fix.startswith(("put the images back ", "correct the files "))
    assert files_in(work) == before


ALIASES = ""
for before, after in zip("abcdefghi", "bcdefghij", strict=True):
    aliases = ", ".join(9 * [f"*{before}"])
    ALIASES += f"{after}: &{after} [{aliases}]\n"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "head", ["a: &a [x, x]\n" + ALIASES, "[" * 200_000, "a: " + "1:" * 400_000]
)
def test_hub_page_that_would_take_much_memory_or_time_is_ignored(tmp_path: Path, head: str) -> None:
    page = tmp_path / "README.md"
    info = "dataset_info:\n  features:\n  - {name: label, dtype: {class_label: {names: [a, b]}}}\n"
    page.write_text(f"---\n{info}---\n")
    assert hub_class_names(tmp_path) == ("a", "b")
    page.write_text(f"---\n{info}x:\n{head}\n---\n")
    assert hub_class_names(tmp_path) == ()
    page.write_text(f"---\n{info.replace('label', head)}\n---\n")
    assert hub_class_names(tmp_path) == ()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_links_out_of_the_dataset_and_special_files_are_refused(work: Path, layout: str) -> None:
    folder = write_layout(work, layout)
    outside = work.parent / "outside"
    within = folder / ".within"
    places = [place for place in files_in(folder) if place.name != "README.txt"]
    assert len(places) > 2

    def read() -> None:
        load_again()
        images_of(load_task("pets"))

    for place in places:
        is_file = place.is_file()
        place.rename(outside)
        place.symlink_to(outside)
        with pytest.raises(CompatbenchError, match="is a link out of the dataset's folder"):
            read()
        place.unlink()
        if is_file:
            os.mkfifo(place)
            with pytest.raises(CompatbenchError, match="it is not a plain file"):
                read()
            place.unlink()
            place.mkdir()
            with pytest.raises(CompatbenchError, match="it is not a plain file"):
                read()
            place.rmdir()
        outside.rename(within)
        place.symlink_to(within)
        read()
        place.unlink()
        within.rename(place)


def test_class_folders_are_listed_in_sorted_order(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of the file system does not matter; hidden and other files are ignored."""
    folder = write_layout(work, "class-folders")
    for name in (f"{IBEX}/.DS_Store", f"{IBEX}/._0.png", f"{IBEX}/notes.txt", ".cache/x.png", "x"):
        write(folder / "train" / name, b"x")
    names = os.listdir
    monkeypatch.setattr(os, "listdir", lambda place: random.sample(names(place), len(names(place))))
    ids = [sample.id for sample in load_task("pets").split("train")]
    expected = []
    for name in CLASSES:
        for number in ("11", "13", "3", "5", "7"):  # sorted as text
            expected.append(f"train/{name}/{number}.jpg")
    assert ids == expected


def test_images_are_found_outside_coops_folder(work: Path) -> None:
    """For example, torchvision keeps ImageNet's train/ and val/ directly in its folder."""
    source: Any = IMAGENET.source
    folder = write_layout(
        work, "class-folders", test="val", images=source.images, elsewhere=[*source.elsewhere]
    )

    def ids() -> list[str]:
        load_again()
        return [sample.id for sample in load_task("pets").split("train")]

    before = ids()
    kaggle = folder / "ILSVRC" / "Data"
    kaggle.mkdir(parents=True)
    (folder / "images").rename(kaggle / "CLS-LOC")
    assert ids() == before
    for split in ("train", "val"):
        (kaggle / "CLS-LOC" / split).rename(folder / split)
    (kaggle / "CLS-LOC").rmdir()
    assert ids() == before
    (folder / "val" / IBEX).rename(folder / IBEX)
    report = inspect_task("pets")  # a missing folder does not mean another order
    assert (report.state, report.class_order) == ("wrong", None)
    assert f"val has no folder '{IBEX}', class 'Alpine Ibex'" in report.message


@pytest.mark.parametrize("name", ["imagenet_v2", "imagenet_a"])
def test_coops_class_list_is_compared_with_the_card(name: str, set_up: SetUp) -> None:
    """Only this list tells the order of ImageNetV2's folders, which are numbers."""
    path = set_up(name).folder / "classnames.txt"
    assert inspect_task(name).class_order is True
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    with pytest.raises(CompatbenchError, match=r"classnames.txt: label 0 is 'n\d+ "):
        load_task(name)
    report = inspect_task(name)
    assert (report.state, report.class_order) == ("wrong", False)
    path.unlink()
    report = inspect_task(name)
    assert report.state == "found"
    if name == "imagenet_v2":
        assert report.class_order is None
    else:
        assert report.class_order is True


PATHS = st.lists(st.text("abcXYZ019 _.-é", max_size=8), min_size=1, max_size=3)
# A letter before each part, so that none is '..'.
PATHS = PATHS.map(lambda parts: "/".join(f"x{part}" for part in parts))
ROWS = st.lists(st.tuples(PATHS, st.integers(0, 5)), min_size=1, max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({"train": ROWS, "val": ROWS, "test": ROWS}))
def test_split_file_rows_are_read_in_order(tmp_path: Path, rows: dict[str, Any]) -> None:
    labels = set()
    for split in SPLITS:
        labels |= {label for _, label in rows[split]}
    used = sorted(labels)
    listed: dict[str, list[Any]] = {split: [] for split in SPLITS}
    expected = []
    for split in SPLITS:
        for place, drawn in rows[split]:
            label = used.index(drawn)  # labels of a split file have no gaps
            listed[split].append([place, label, f"class {label}"])
            expected.append((place, label, split))
    read, names = read_split(write(tmp_path / "split.json", json.dumps(listed)))
    assert read == expected
    assert names == [f"class {label}" for label in range(len(used))]


OUTSIDE = ["", "/etc/passwd", "../x.jpg", "a/../../x.jpg", "..", "a\\b.jpg", "C:/x", "a\0b", "a\nb"]


LEAVES = r"'train.1.0': .* leaves the dataset's folder"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        *(([path, 1, "dog"], LEAVES) for path in OUTSIDE),
        (["b.jpg", 0, "dog"], "label 0 is both 'cat' and 'dog'"),
        (["b.jpg", 2, "dog"], "no image has label 1"),
    ],
)
def test_outside_paths_and_inconsistent_labels_in_split_files_are_refused(
    tmp_path: Path, row: list[Any], message: str
) -> None:
    rows = {"train": [["a.jpg", 0, "cat"], row], "val": [], "test": []}
    with pytest.raises(CompatbenchError, match=message):
        read_split(write(tmp_path / "split.json", json.dumps(rows)))


def test_shards_are_never_unpacked_and_damaged_members_are_named(work: Path) -> None:
    folder = write_layout(work, "webdataset")
    before = load_task("pets").fingerprint(load_task("pets").split("test"))
    damaged = [("a.cls", b"0"), ("a.png", b"no image")]
    write_members(folder / "test" / "0.tar", *damaged, *shard_members([0, 1, 1]))
    write(folder / "test" / "nshards.txt", "1")
    files = files_in(work.parent)
    load_again()
    task = load_task("pets")
    samples = task.split("test")
    assert [sample.label for sample in samples] == [0, 0, 1, 1]
    assert task.source.image(samples[1]).size == (16, 12)
    assert task.fingerprint(samples) != before
    with pytest.raises(CompatbenchError, match=r"image .*test/0.tar/a cannot be decoded"):
        task.source.image(samples[0])
    assert files_in(work.parent) == files
