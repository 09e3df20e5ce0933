"""Datasets with lists of their images: CoOp's split files, and FGVC-Aircraft's text files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data.conftest import SetUp
from data.trees import Sizes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compatbench.data.images.source import SPLITS
from compatbench.data.layouts.scanners import read_split, read_variants
from compatbench.data.task import inspect_task, load_task
from compatbench.errors import CompatbenchError

PATHS = st.lists(st.text("abcXYZ019 _.-é", max_size=8), min_size=1, max_size=3)
# A letter before each part, so that none is '..'.
PATHS = PATHS.map(lambda parts: "/".join(f"x{part}" for part in parts))
ROWS = st.lists(st.tuples(PATHS, st.integers(0, 5)), max_size=20)


def write(folder: Path, content: Any) -> Path:
    path = folder / "split.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def expect(name: str, message: str) -> None:
    with pytest.raises(CompatbenchError, match=message) as raised:
        load_task(name)
    assert "\n" not in str(raised.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({"train": ROWS, "val": ROWS, "test": ROWS}))
def test_every_row_is_read_in_its_order(tmp_path: Path, rows: dict[str, Any]) -> None:
    used = sorted({label for split in rows.values() for _, label in split})
    rows = {s: [(p, used.index(label)) for p, label in split] for s, split in rows.items()}
    listed = {s: [[p, label, f"class {label}"] for p, label in split] for s, split in rows.items()}
    path = write(tmp_path, listed)
    if not used:
        with pytest.raises(CompatbenchError, match="lists no image"):
            read_split(path)
        return
    listed_rows, names = read_split(path)
    assert listed_rows == [(p, label, s) for s in SPLITS for p, label in rows[s]]
    assert names == [f"class {label}" for label in range(len(used))]


OUTSIDE = ["", "/etc/passwd", "../x.jpg", "a/../../x.jpg", "..", "a\\b.jpg", "C:/x", "a\0b", "a\nb"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        *(([path, 1, "dog"], r"'train.1.0': .* leaves the dataset's folder") for path in OUTSIDE),
        (["b.jpg", 0, "dog"], "label 0 is both 'cat' and 'dog'"),
        (["b.jpg", 2, "dog"], "no image has label 1"),
    ],
)
def test_a_row_of_a_place_outside_or_a_doubtful_label_is_refused(
    tmp_path: Path, row: list[Any], message: str
) -> None:
    with pytest.raises(CompatbenchError, match=message):
        read_split(write(tmp_path, {"train": [["a.jpg", 0, "cat"], row], "val": [], "test": []}))


def swap(rows: list[list[Any]]) -> None:
    """Gives class 0 the label 1 and class 1 the label 0."""
    for row in rows:
        row[1] = {0: 1, 1: 0}.get(row[1], row[1])


def drop_last_class(rows: list[list[Any]]) -> None:
    last = max(row[1] for row in rows)
    rows[:] = [row for row in rows if row[1] != last]


@pytest.mark.parametrize(
    ("change", "message", "order"),
    [
        (swap, r"label 0 is 'Forest', .*'Annual Crop Land' \(the same names in another", False),
        (drop_last_class, "9 classes, the card of 'eurosat' has 10", False),
        (lambda rows: rows.pop(), "task 'eurosat': train has 29 images, its card counts 30", True),
    ],
)
def test_a_split_that_is_not_the_card_s_is_refused(
    set_up: SetUp, change: Callable[[Any], None], message: str, order: bool
) -> None:
    path = set_up("eurosat")["eurosat"].folder / "split_zhou_EuroSAT.json"
    listed = json.loads(path.read_text())
    for rows in listed.values():
        change(rows)
    path.write_text(json.dumps(listed))
    expect("eurosat", message)
    report = inspect_task("eurosat")
    assert (report.state, report.class_order) == ("wrong", order)


def test_too_few_images_of_a_class_are_told(set_up: SetUp, tmp_path: Path) -> None:
    set_up("eurosat")
    with (tmp_path / "tasks" / "eurosat.yaml").open("a") as file:
        file.write("least_per_class: {train: 3, val: 4}\n")
    expect("eurosat", "val has 2 images of 'Annual Crop Land', its card says 4 at least")


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("dtd", "split_zhou_DescribableTextures.json"),
        ("fgvc_aircraft", "variants.txt"),
        ("fgvc_aircraft", "images"),
    ],
)
def test_a_missing_file_or_folder_is_named(task: str, name: str, set_up: SetUp) -> None:
    path = set_up(task)[task].folder / name
    path.rename(path.with_name("gone"))
    expect(task, f"{path} is missing; see docs/datasets.md")
    report = inspect_task(task)
    assert (report.state, str(path) in report.message) == ("wrong", True)
    assert "docs/datasets.md" in report.fix


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda whole: whole[: len(whole) // 2], r"cannot be decoded \([^)]*[Tt]runcated"),
        (lambda whole: b"", "is empty"),
        (lambda whole: b"<html>not found</html>", "no image format that is known"),
    ],
)
def test_a_damaged_or_missing_image_is_named(
    set_up: SetUp, content: Callable[[bytes], bytes], message: str
) -> None:
    tree = set_up("dtd", sizes=Sizes())["dtd"]
    path = tree.folder / "images" / tree.rows["test"][0][0]
    path.write_bytes(content(path.read_bytes()))
    task = load_task("dtd")
    with pytest.raises(CompatbenchError, match=f"image {path} (.*){message}") as raised:
        task.source.image(task.split("test")[0])
    assert "\n" not in str(raised.value)
    path.unlink()
    report = inspect_task("dtd")
    assert (report.state, str(path) in report.message) == ("wrong", True)
    assert report.found == tree.counts
    for read in (task.fingerprint, lambda samples: task.source.image(samples[0])):
        with pytest.raises(CompatbenchError, match=f"{path} is missing"):
            read(task.split("test"))


VARIANTS = ["707-320", "BAE 146-200", "F/A-18", "Model B200"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1025794", "'' is not in variants.txt"),
        ("../../1 707-320", "a line holds an image's number"),
        ("1025794 707-321", "'707-321' is not in variants.txt"),
    ],
)
def test_a_wrong_line_of_fgvc_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "images.txt").write_text(f"0034309 707-320\n{line}")
    with pytest.raises(CompatbenchError, match=f"images.txt: .*{message}"):
        read_variants(tmp_path / "images.txt", VARIANTS, "test")


def test_variants_in_another_order_are_refused(set_up: SetUp) -> None:
    path = set_up("fgvc_aircraft")["fgvc_aircraft"].folder / "variants.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[1], lines[0], *lines[2:]]))
    expect("fgvc_aircraft", "label 0 is '727-200', .* '707-320'")
    assert inspect_task("fgvc_aircraft").class_order is False
