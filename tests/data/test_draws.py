"""Draws that are written to a file and read back, so that two labs use the same images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data.trees import Tree

from compatbench.data.draws import (
    draw_shots,
    export_draw,
    read_draws,
    read_shots_file,
    split_hash,
)
from compatbench.data.task import load_task
from compatbench.engine import keys
from compatbench.engine.keys import fit_key
from compatbench.errors import CompatbenchError


@pytest.fixture(autouse=True)
def _fresh(data: dict[str, Tree]) -> None:
    for cached in (draw_shots, read_shots_file, keys._fit_key):
        cached.cache_clear()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The draw of DTD, two shots, seed 1."""
    task, path = load_task("dtd"), tmp_path / "dtd.json"
    path.write_text(export_draw(task, draw_shots(task, 2, 1), 2, 1))
    return path


def test_what_was_exported_is_imported_again(file: Path) -> None:
    task = load_task("dtd")
    assert draw_shots(task, 2, 1, file) == draw_shots(task, 2, 1)
    assert read_draws([file]) == {("dtd", 2, 1): file}


def test_the_file_names_images_as_the_split_does(file: Path) -> None:
    content = json.loads(file.read_text())
    assert content["split"] == split_hash(load_task("dtd"))
    assert content["train"][0][0].startswith("banded/banded_")
    assert (len(content["train"]), len(content["val"])) == (94, 94)


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def other_image(content: dict[str, Any]) -> None:
    """Takes the third training image of class 0, which the draw left out."""
    content.pop("sha256")
    used = {path for path, _ in content["train"]}
    rows = load_task("dtd").split("train")
    content["train"][0] = next([s.id, 0] for s in rows if s.label == 0 and s.id not in used)


def test_another_draw_of_the_same_images_is_another_cell(file: Path) -> None:
    shipped = fit_key("mini-clip", "dtd", 2, 1)
    assert fit_key("mini-clip", "dtd", 2, 1, file) == shipped
    change(file, other_image)
    for cached in (draw_shots, read_shots_file, keys._fit_key):
        cached.cache_clear()
    assert fit_key("mini-clip", "dtd", 2, 1, file) != shipped
    drawn = draw_shots(load_task("dtd"), 2, 1, file)
    assert drawn.train[1:] == draw_shots(load_task("dtd"), 2, 1).train[1:]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["train"].pop(), "its images are not those that its field 'sha256'"),
        (lambda c: c.update(split="0" * 64), r"another split of 'dtd' \(000000000000, here"),
        (lambda c: c.update(shots=0), "field 'shots'"),
        (lambda c: c.update(format=2), "field 'format'"),
        (lambda c: c.update(colour="red"), "field 'colour'"),
        (lambda c: c.pop("val"), "field 'val'"),
        (lambda c: c.update(task="dtdd", sha256=None), "no task named 'dtdd'"),
        (
            lambda c: c.update(sha256=None, train=[["nowhere.jpg", 0]]),
            "'nowhere.jpg' of 'train' is not among the images to draw from",
        ),
        (
            lambda c: c.update(sha256=None, train=[[c["train"][0][0], 5]]),
            "has label 5, here 0",
        ),
        (
            lambda c: c.update(sha256=None, train=[c["train"][0], c["train"][0]]),
            "'train' lists an image twice",
        ),
        (
            lambda c: c.update(sha256=None, train=c["val"]),
            "of 'train' is not among the images to draw from",
        ),
    ],
)
def test_a_wrong_file_is_one_clear_line(
    file: Path, edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    change(file, edit)
    with pytest.raises(CompatbenchError, match=message) as raised:
        read_draws([file])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 1}', "\udcff"])
def test_what_is_no_draw_is_one_clear_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CompatbenchError, match="shots file") as raised:
        read_draws([path])
    assert "\n" not in str(raised.value)


def test_a_file_serves_its_own_task_shots_and_seed_alone(file: Path) -> None:
    for name, shots, seed in (("eurosat", 2, 1), ("dtd", 1, 1), ("dtd", 2, 2)):
        with pytest.raises(CompatbenchError, match="is a draw of 2 shots of 'dtd' with seed 1"):
            draw_shots(load_task(name), shots, seed, file)


def test_two_files_for_one_draw_are_refused(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(file.read_text())
    with pytest.raises(CompatbenchError, match="are both a draw of 2 shots of 'dtd'"):
        read_draws([file, other])


def test_spare_training_images_may_validate_but_not_twice(tmp_path: Path) -> None:
    """ImageNet has no validation images."""
    task, path = load_task("imagenet"), tmp_path / "imagenet.json"
    path.write_text(export_draw(task, draw_shots(task, 1, 1), 1, 1))
    assert draw_shots(task, 1, 1, path) == draw_shots(task, 1, 1)
    change(path, lambda c: c.update(sha256=None, val=c["train"][:1]))
    read_shots_file.cache_clear()
    draw_shots.cache_clear()
    with pytest.raises(CompatbenchError, match="is in train and in val"):
        draw_shots(task, 1, 1, path)
