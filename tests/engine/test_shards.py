"""Shards: every cell in one of them, each about as long, the same whoever divides and when."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compatbench.data.cards import TrainingCard
from compatbench.engine.cell import Cell
from compatbench.engine.execute.shards import Shard, agree_on_means, divide
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError

TRAINING = TrainingCard.model_validate({})


def make_cell(number: int, task: str, source: str = "a") -> Cell:
    return Cell(
        f"{number:064d}",
        f"{number:064d}",
        "coop",
        {},
        task,
        4,
        number,
        (source, "z"),
        (task,),
        TRAINING,
    )


costs = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=60)


@given(costs, st.integers(1, 12), st.data())
def test_every_cell_is_in_exactly_one_shard_of_about_an_equal_share(
    seconds: list[float], count: int, data: st.DataObject
) -> None:
    tasks = data.draw(
        st.lists(st.sampled_from("xyz"), min_size=len(seconds), max_size=len(seconds))
    )
    cells = [make_cell(i, task) for i, task in enumerate(tasks)]
    parts = divide(cells, seconds, count)
    assert len(parts) == count
    assert Counter(cell.key for part in parts for cell in part) == Counter(c.key for c in cells)
    cost = {cell.key: s for cell, s in zip(cells, seconds, strict=True)}
    share = sum(seconds) / count + max(seconds)
    assert all(sum(cost[cell.key] for cell in part) <= share * (1 + 1e-9) for part in parts)
    # Cells of a task are apart only where a shard ends.
    touched = sum(len({cell.task for cell in part}) for part in parts)
    assert touched <= len(set(tasks)) + count - 1
    assert parts == divide(cells, seconds, count)


def test_one_shard_is_the_whole_plan_and_many_may_be_empty() -> None:
    cells = [make_cell(i, "x") for i in range(2)]
    assert divide(cells, [1.0] * 2, 1) == [cells]
    assert sorted(map(len, divide(cells, [1.0] * 2, 5))) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "a/b", "1 / 4"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(CompatbenchError, match="give I/N"):
        Shard.parse(text)
    assert str(Shard.parse("3/8")) == "3/8"


def test_the_first_job_decides_by_which_times_all_divide(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    cells = [make_cell(i, "x") for i in range(3)]
    # A plan stores nothing.
    assert agree_on_means(store, cells, 4, {"coop": 2.0}, keep=False) == {"coop": 2.0}
    assert agree_on_means(store, cells, 4, {}) == {}
    assert agree_on_means(store, cells, 4, {"coop": 2.5}) == {}
    # Another division has times of its own.
    assert agree_on_means(store, cells, 2, {"coop": 0.1}) == {"coop": 0.1}
    assert agree_on_means(store, list(reversed(cells)), 2, {"coop": 9.0}) == {"coop": 0.1}


def test_a_broken_note_of_times_is_named(tmp_path: Path) -> None:
    store, cells = RunStore(tmp_path), [make_cell(1, "x")]
    agree_on_means(store, cells, 2, {})
    [path] = tmp_path.glob("shards/*.json")
    path.write_text("{")
    with pytest.raises(CompatbenchError, match="when no job of the array"):
        agree_on_means(store, cells, 2, {})
