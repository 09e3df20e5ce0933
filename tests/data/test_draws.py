"""Few-shot draws are those of CoOp and Dassl, and are read from files: ours and theirs."""

from __future__ import annotations

import json
import os
import pickle
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from command_line import invoke, output_of
from data.trees import SetUp, Tree, dassl_draw, load_again
from hypothesis import example, given
from hypothesis import strategies as st

from compatbench.data.draws import (
    Draw,
    draw_few_shot,
    draw_shots,
    export_draw,
    read_draws,
    split_hash,
)
from compatbench.data.foreign_draws import read_foreign_draw
from compatbench.data.images.source import Sample
from compatbench.data.task import Task, load_task
from compatbench.engine import keys
from compatbench.errors import CompatbenchError


def make_items(sizes: list[int], seed: int) -> list[Sample]:
    """Items of classes of these sizes, shuffled."""
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    random.Random(seed).shuffle(labels)
    return [Sample(f"{seed}/{i}", label) for i, label in enumerate(labels)]


SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=8)


# Dassl samples a class of exactly 16 items too: it moves the random stream.
@example([16, 25, 16, 18, 40], [9, 6, 4, 5, 7], 16, 3)
@given(SIZES, SIZES, st.integers(1, 16), st.integers(0, 2**31))
def test_any_draw_equals_dassl_s(
    sizes: list[int], val_sizes: list[int], shots: int, seed: int
) -> None:
    train, val = make_items(sizes, seed), make_items(val_sizes, seed + 1)
    before = random.getstate()
    few, held_out = draw_few_shot(train, val, shots, seed)
    assert (few, held_out) == dassl_draw(train, val, shots, seed)
    assert Counter(item.label for item in few) == Counter(
        {c: min(n, shots) for c, n in enumerate(sizes) if n}
    )
    assert len({item.id for item in (*few, *held_out)}) == len(few) + len(held_out)
    assert random.getstate() == before


def test_more_validation_items_leave_the_training_items_as_they_are() -> None:
    train, val = make_items([6, 7, 8], 3), make_items([9, 2, 6], 4)
    few, held_out = draw_few_shot(train, val, 6, 1, most=5)
    assert few == draw_few_shot(train, val, 6, 1)[0]
    assert Counter(item.label for item in held_out) == {0: 5, 1: 2, 2: 5}
    assert len(draw_few_shot(train, val, 2, 1, most=5)[1]) == 6  # no more than shots
    # Spare training items validate where there are no others.
    few, held_out = draw_few_shot(train := make_items([6, 3, 2], 3), None, 2, 1)
    assert few == dassl_draw(train, [], 2, 1)[0]
    assert Counter(item.label for item in held_out) == {0: 2, 1: 1}
    assert not {*few} & {*held_out}


def forget() -> None:
    for cached in (draw_shots, keys._hash_draw):
        cached.cache_clear()


@pytest.fixture
def file(tmp_path: Path, data: dict[str, Tree]) -> Path:
    """The draw of DTD, two shots, seed 1."""
    forget()
    task, path = load_task("dtd"), tmp_path / "dtd.json"
    path.write_text(export_draw(task, draw_shots(task, 2, 1), 2, 1))
    return path


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def spoil(content: dict[str, Any], train: list[Any]) -> None:
    content.update(sha256=None, train=train)


def other_image(content: dict[str, Any]) -> None:
    """Takes the third training image of class 0, which the draw left out."""
    content.pop("sha256")
    used = {path for path, _ in content["train"]}
    rows = load_task("dtd").split("train")
    content["train"][0] = next([s.id, 0] for s in rows if s.label == 0 and s.id not in used)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["train"].pop(), "its images do not match its field 'sha256'"),
        (lambda c: c.update(split="0" * 64), r"another split of 'dtd' \(000000000000, here"),
        (lambda c: c.update(shots=0), "field 'shots'"),
        (lambda c: c.update(task="dtdd"), "no task named 'dtdd'"),
        (lambda c: spoil(c, [["nowhere.jpg", 0]]), "'nowhere.jpg' of 'train' is not among"),
        (lambda c: spoil(c, [[c["train"][0][0], 5]]), "has label 5, here 0"),
        (lambda c: spoil(c, c["train"][:1] * 2), "'train' lists an image twice"),
        (lambda c: spoil(c, c["val"][:1]), "is in train and in val"),
    ],
)
def test_a_wrong_file_is_one_clear_line(
    file: Path, edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    change(file, edit)
    with pytest.raises(CompatbenchError, match=message):
        read_draws([file])


def test_a_file_serves_its_own_task_shots_and_seed_once(file: Path, tmp_path: Path) -> None:
    for name, shots, seed in (("eurosat", 2, 1), ("dtd", 1, 1), ("dtd", 2, 2)):
        with pytest.raises(CompatbenchError, match="is a draw of 2 shots of 'dtd' with seed 1"):
            draw_shots(load_task(name), shots, seed, file)
    other = tmp_path / "other.json"
    other.write_text(file.read_text())
    with pytest.raises(CompatbenchError, match="are both a draw of 2 shots of 'dtd'"):
        read_draws([file, other])


def test_what_was_exported_is_imported_again_and_compared(
    data: dict[str, Tree], file: Path, tmp_path: Path
) -> None:
    task, content, out = load_task("dtd"), json.loads(file.read_text()), tmp_path / "out.json"
    assert content["split"] == split_hash(task)
    assert content["train"][0][0].startswith("banded/")
    assert draw_shots(task, 2, 1, file) == draw_shots(task, 2, 1)
    assert read_draws([file]) == {("dtd", 2, 1): file}
    arguments = ["store data shots", "dtd", "--shots", "2", "--seed", "1"]
    assert "94 training and 94 validation images" in invoke(*arguments, "--out", str(out)).output
    assert out.read_bytes() == file.read_bytes()
    assert invoke(*arguments).output == file.read_text()
    assert "is the same draw" in invoke(*arguments, "--compare", str(out)).output
    change(out, other_image)
    forget()
    compared = invoke(*arguments, "--compare", str(out))
    assert (compared.exit_code, "is another draw" in compared.output) == (1, True)
    with pytest.raises(CompatbenchError, match="draw from 'imagenet'"):
        invoke("store data shots", "imagenet_a")


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


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Path]:
    """Writes a pickle as from a process that has Dassl, which this one has not."""

    def write_pickle(content: Any) -> Path:
        path = tmp_path / "shot_2-seed_1.pkl"
        with monkeypatch.context() as patch:
            module = ModuleType(MODULE)
            module.Datum = Datum  # type: ignore[attr-defined]
            patch.setattr(Datum, "__module__", MODULE)
            parts = MODULE.split(".")
            for end in range(1, len(parts) + 1):
                patch.setitem(sys.modules, ".".join(parts[:end]), module)
            path.write_bytes(pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL))
        return path

    return write_pickle


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
    words = ("store data shots", "dtd", "--shots", "2", "--seed", "1", "--from", listed)
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
