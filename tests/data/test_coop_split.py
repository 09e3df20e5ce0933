"""CoOp's split files: what is in them comes out of them, and what is wrong is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data.conftest import SetUp
from data.trees import Sizes, Tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compatbench.data.image_check import inspect_task
from compatbench.data.sources.split_files import is_inside, read_split
from compatbench.data.task import load_task
from compatbench.errors import CompatbenchError

PATHS = st.lists(st.text("abcXYZ019 _.-é", min_size=1, max_size=8), min_size=1, max_size=3).map(
    "/".join
)
ROWS = st.lists(st.tuples(PATHS.filter(is_inside), st.integers(0, 5)), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)
LABELS = st.tuples(PATHS, st.integers(0, 2), st.sampled_from(["a", "b\n", "c"])).map(list)
SPLITS = st.fixed_dictionaries(
    dict.fromkeys(("train", "val", "test"), JSON | st.lists(LABELS, max_size=3))
)
ANY_EXAMPLE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(folder: Path, content: Any) -> Path:
    path = folder / "split.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@ANY_EXAMPLE
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
    samples, names = read_split(path)
    assert {s: [(x.id, x.label) for x in split] for s, split in samples.items()} == rows
    assert names == [f"class {label}" for label in range(len(used))]


@pytest.mark.slow
@ANY_EXAMPLE
@given(st.text(max_size=30) | JSON | SPLITS)
def test_anything_else_is_one_clear_line(tmp_path: Path, content: Any) -> None:
    path = write(tmp_path, content)
    try:
        samples, names = read_split(path)
    except CompatbenchError as error:
        message = str(error)
    else:
        assert {s.label for split in samples.values() for s in split} == set(range(len(names)))
        return
    assert str(path) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x.jpg", "a/../../x.jpg", "..", "a\\b.jpg", "C:/x.jpg", "a\0b", "a\nb"],
)
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    split = write(tmp_path, {"train": [[path, 0, "a"]], "val": [], "test": []})
    with pytest.raises(CompatbenchError, match=r"'train.0.0': .* leaves the dataset's folder"):
        read_split(split)


def test_a_class_with_two_names_is_refused(tmp_path: Path) -> None:
    rows = [["a.jpg", 0, "cat"], ["b.jpg", 0, "dog"]]
    with pytest.raises(CompatbenchError, match="label 0 is both 'cat' and 'dog'"):
        read_split(write(tmp_path, {"train": rows, "val": [], "test": []}))


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
    tree = set_up("eurosat")["eurosat"]
    path = tree.folder / "split_zhou_EuroSAT.json"
    listed = json.loads(path.read_text())
    for rows in listed.values():
        change(rows)
    path.write_text(json.dumps(listed))
    expect(tree, message)
    report = inspect_task("eurosat")
    assert (report.state, report.class_order) == ("wrong", order)


def test_too_few_images_of_a_class_are_told(set_up: SetUp, tmp_path: Path) -> None:
    tree = set_up("eurosat")["eurosat"]
    with (tmp_path / "tasks" / "eurosat.yaml").open("a") as file:
        file.write("least_per_class: {train: 3, val: 4}\n")
    expect(tree, "val has 2 images of 'Annual Crop Land', its card says 4 at least")


def test_a_missing_split_file_is_named(set_up: SetUp) -> None:
    tree = set_up("dtd")["dtd"]
    path = tree.folder / "split_zhou_DescribableTextures.json"
    path.unlink()
    expect(tree, f"{path} is missing")
    report = inspect_task("dtd")
    assert (report.state, report.missing_file, report.class_order) == ("wrong", path, None)
    assert "docs/datasets.md" in report.fix


def test_missing_images_are_named(set_up: SetUp) -> None:
    tree = set_up("dtd", sizes=Sizes())["dtd"]
    path = tree.folder / "images" / tree.rows["test"][5][0]
    path.unlink()
    report = inspect_task("dtd")
    assert (report.state, report.missing_file) == ("wrong", path)
    assert report.found == tree.counts
    task = load_task("dtd")
    with pytest.raises(CompatbenchError, match=f"{path} is missing"):
        task.fingerprint(task.split("test"))
    with pytest.raises(CompatbenchError, match=f"{path} is missing"):
        task.source.image(task.split("test")[5])


def test_a_missing_folder_of_images_is_named(set_up: SetUp) -> None:
    tree = set_up("dtd")["dtd"]
    (tree.folder / "images").rename(tree.folder / "pictures")
    expect(tree, f"{tree.folder / 'images'} is missing")
    assert inspect_task("dtd").missing_file == tree.folder / "images"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda whole: whole[: len(whole) // 2], r"cannot be decoded \([^)]*[Tt]runcated"),
        (lambda whole: b"", "is empty"),
        (lambda whole: b"<html>not found</html>", "no image format that is known"),
    ],
)
def test_a_damaged_image_is_named(
    set_up: SetUp, content: Callable[[bytes], bytes], message: str
) -> None:
    tree = set_up("dtd", sizes=Sizes())["dtd"]
    path = tree.folder / "images" / tree.rows["test"][0][0]
    path.write_bytes(content(path.read_bytes()))
    task = load_task("dtd")
    with pytest.raises(CompatbenchError, match=f"image {path} (.*){message}") as raised:
        task.source.image(task.split("test")[0])
    assert "\n" not in str(raised.value)


def expect(tree: Tree, message: str) -> None:
    with pytest.raises(CompatbenchError, match=message) as raised:
        load_task(tree.name)
    assert "\n" not in str(raised.value)
