"""Draws that CoOp and 2SFS have kept, read without running anything in them."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from command_line import invoke, output_of
from data.trees import SetUp, load_again

from compatbench.data.draws import Draw, draw_shots
from compatbench.data.foreign_draws import read_foreign_draw
from compatbench.data.images.source import Sample
from compatbench.data.task import Task, load_task
from compatbench.errors import CompatbenchError

MODULE = "dassl.data.datasets.base_dataset"


class Datum:
    """As Dassl's keeps its values."""

    def __init__(self, path: str, label: int) -> None:
        self._impath, self._label, self._domain, self._classname = path, label, 0, "a name"


@pytest.fixture
def task(set_up: SetUp) -> Task:
    set_up("dtd")
    load_again()
    return load_task("dtd")


def items_of(samples: Sequence[Sample]) -> list[Datum]:
    return [Datum(f"/home/them/data/dtd/images/{one.id}", one.label) for one in samples]


def write_pickle(path: Path, content: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Writes it as from a process that has Dassl, which this one has not."""
    with monkeypatch.context() as patch:
        module = ModuleType(MODULE)
        module.Datum = Datum  # type: ignore[attr-defined]
        patch.setattr(Datum, "__module__", MODULE)
        parts = MODULE.split(".")
        for end in range(1, len(parts) + 1):
            patch.setitem(sys.modules, ".".join(parts[:end]), module)
        path.write_bytes(pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL))
    return path


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Path]:
    return lambda content: write_pickle(tmp_path / "shot_2-seed_1.pkl", content, monkeypatch)


def test_a_pickle_and_a_list_give_the_draw_that_is_in_them(
    task: Task, write: Callable[[Any], Path], tmp_path: Path
) -> None:
    draw = draw_shots(task, 2, 7)  # of another seed than the files say
    lists = {"train": items_of(draw.train), "val": items_of(draw.val)}
    file = write(lists)
    assert read_foreign_draw(file, task, 2, 1) == draw
    for split, items in lists.items():
        lines = (json.dumps(vars(item)) for item in items)
        (tmp_path / f"shot_2-seed_1_{split}.jsonl").write_text("\n".join(lines))
    listed = tmp_path / "shot_2-seed_1_train.jsonl"
    assert read_foreign_draw(listed, task, 2, 1) == draw
    # As ImageNet's, without validation; an image twice; and from Windows.
    items = items_of(draw.train)
    items[0]._impath = items[0]._impath.replace("/", "\\")
    assert read_foreign_draw(write({"train": [*items, items[1]]}), task, 2, 1) == Draw(
        draw.train, ()
    )
    words = ("data", "shots", "dtd", "--shots", "2", "--seed", "1", "--from", listed)
    output_of(*words, "--out", tmp_path / "mine.json")
    assert "is the same draw" in output_of(*words, "--compare", tmp_path / "mine.json")
    assert invoke(*words[:-2], "--compare", tmp_path / "mine.json").exit_code == 1


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_pickle_is_run(
    task: Task, write: Callable[[Any], Path], tmp_path: Path
) -> None:
    file = write({"train": [Hostile(tmp_path / "made")]})
    with pytest.raises(CompatbenchError, match=r"asks for posix\.mkdir; nothing in it was run"):
        read_foreign_draw(file, task, 2, 1)
    assert not (tmp_path / "made").exists()


def test_what_is_no_draw_of_the_task_is_one_clear_line(
    task: Task, write: Callable[[Any], Path]
) -> None:
    draw = draw_shots(task, 2, 1)

    def message(content: Any, shots: int = 2) -> str:
        with pytest.raises(CompatbenchError) as caught:
            read_foreign_draw(write(content), task, shots, 1)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    train = items_of(draw.train)
    assert "give --shots 2 --seed 1" in message({"train": train}, shots=4)
    assert "neither a draw of CoOp's" in message([1, 2])
    assert "neither a draw of CoOp's" in message({"train": [3]})
    assert "without path ('_impath')" in message({"train": [Datum(5, 0)]})  # type: ignore[arg-type]
    assert "'/x/y.jpg' is not an image to draw from" in message({"train": [Datum("/x/y.jpg", 0)]})
    assert "has label 46, here 0" in message({"train": [Datum(train[0]._impath, 46)]})
    assert "lists an image twice" in message({"train": [train[0], Datum(train[0]._impath, 1)]})
    assert "is not an image to draw from" in message({"train": train, "val": train})
    file = write({})
    file.write_bytes(b"\x80\x04garbage")
    listed = file.with_name("shot_2-seed_1_train.jsonl")
    listed.write_text("[1, 2]")
    for path in (file, listed):
        with pytest.raises(CompatbenchError, match="neither a draw"):
            read_foreign_draw(path, task, 2, 1)
