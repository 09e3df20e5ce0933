"""Cells run seed by seed; those that share features stay together, in a worker and in a shard."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compatbench.engine.execute.cell_queue import CellQueue, longest_first, order_cells
from compatbench.engine.order import Shard, divide
from compatbench.errors import CompatbenchError


@dataclass(frozen=True)
class Toy:
    """A cell of which only the place and the cost matter."""

    source: str = "clip"
    task: str = "pets"
    shots: int = 1
    seed: int = 1
    cost: float = 1.0
    number: int = 0
    name: str = "coop"


def cost(cell: Toy) -> float:
    return cell.cost


def make_queue(cells: list[Toy]) -> CellQueue[Toy]:
    return CellQueue(longest_first(cells, cost), cost)


toys = st.lists(
    st.builds(
        Toy,
        source=st.sampled_from(["b16", "l14"]),
        task=st.sampled_from(["pets", "cars", "food"]),
        shots=st.sampled_from([1, 16]),
        seed=st.integers(1, 2),
        cost=st.floats(0.01, 100),
        number=st.integers(0, 999),
    ),
    max_size=40,
)


@given(toys, st.lists(st.integers(0, 4), min_size=1), st.integers(0, 3))
def test_every_cell_is_handed_out_once_whoever_asks(
    cells: list[Toy], asking: list[int], leavers: int
) -> None:
    queue = make_queue(cells)
    taken: list[Toy] = []
    for turn in range(len(cells)):
        worker = asking[turn % len(asking)]
        assert len(queue) == len(cells) - len(taken)
        cell = queue.take(worker)
        assert cell is not None
        taken.append(cell)
        if worker < leavers:
            queue.leave(worker)
    assert queue.take("last") is None
    assert Counter(taken) == Counter(cells)


def test_all_cells_of_a_seed_are_started_before_the_next_but_for_long_ones() -> None:
    cells = [Toy(task=t, seed=s, number=i) for s in (2, 1) for t in "abc" for i in range(9)]
    queue = make_queue([*cells, Toy(seed=1, cost=50)])
    # It takes more than half of what is left for each of two workers.
    assert [queue.take(who) for who in "xy"][1] == Toy(seed=1, cost=50)
    seeds = [cell.seed for _ in cells for who in "xy" if (cell := queue.take(who))]
    assert seeds == [2] * 26 + [1] * 27


def test_a_worker_keeps_its_group_in_the_next_seed_too() -> None:
    cells = [Toy(task=t, seed=s, number=i) for s in (1, 2) for i in range(3) for t in "abc"]
    queue = make_queue(cells)
    taken = {who: [queue.take(who).task for _ in range(3)] for who in "xyz"}
    assert sorted(taken.values()) == [["a"] * 3, ["b"] * 3, ["c"] * 3]
    assert {who: queue.take(who).task for who in "zyx"} == {w: t[0] for w, t in taken.items()}


def test_for_many_workers_the_costly_of_a_seed_come_first_and_cells_of_like_cost_by_draws() -> None:
    cells = [
        Toy(shots=shots, seed=seed, cost=cost)
        for cost in (1.0, 1.2, 100.0)
        for shots, seed in ((1, 2), (16, 2), (16, 1))
    ]
    assert [(cell.seed, cell.shots, cell.cost) for cell in longest_first(cells, cost)] == [
        *((2, 16, 100), (2, 1, 100), (2, 16, 1), (2, 16, 1.2), (2, 1, 1), (2, 1, 1.2)),
        *((1, 16, 100), (1, 16, 1), (1, 16, 1.2)),
    ]


def test_what_is_given_back_goes_first() -> None:
    queue = make_queue([Toy(number=i) for i in range(4)])
    lost = queue.take("dead")
    assert lost is not None
    queue.leave("dead")
    queue.give_back(lost)
    assert len(queue) == 4
    assert queue.take("other") == lost


def test_a_long_cell_goes_first_whoever_has_its_group() -> None:
    small = [Toy(task="pets", cost=2, number=i) for i in range(3)]
    large = [Toy(task="cars", cost=5, number=i) for i in range(2)]
    queue = make_queue([*small, *large])
    assert queue.take("owner of cars") == large[0]
    assert queue.take("owner of pets") == large[1]  # of 11 seconds left, two workers need 5.5
    assert queue.take("owner of pets") in small


def test_on_one_machine_cells_run_by_seed_then_by_cost_of_the_method_then_by_task() -> None:
    seconds = {"coop": 90.0, "gda": 1.0, "taskres": 1.2}
    cells = [
        Toy(task=task, seed=seed, name=name, cost=cost)
        for task in ("food", "cars")
        for seed in (2, 1)
        for name, cost in seconds.items()
    ]
    cheap = ["gda food", "taskres food", "gda cars", "taskres cars"]
    of_a_seed = [*cheap, "coop food", "coop cars"]
    assert [f"{cell.seed} {cell.name} {cell.task}" for cell in order_cells(cells, cost)] == [
        f"{seed} {each}" for seed in (2, 1) for each in of_a_seed
    ]  # the suite's order of seeds
    assert order_cells([], cost) == []


@given(toys.filter(bool), st.integers(1, 12))
def test_every_cell_is_in_exactly_one_shard_of_about_an_equal_share(
    cells: list[Toy], count: int
) -> None:
    seconds = list(map(cost, cells))
    parts = divide(cells, seconds, count)
    assert len(parts) == count
    assert Counter(cell for part in parts for cell in part) == Counter(cells)
    share = sum(seconds) / count + max(seconds)
    assert all(sum(map(cost, part)) <= share * (1 + 1e-9) for part in parts)
    # Cells of a source and task are apart only where a shard ends.
    groups = [{(cell.source, cell.task) for cell in part} for part in parts]
    assert sum(map(len, groups)) <= len(set.union(*groups)) + count - 1
    assert parts == divide(cells, seconds, count)


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "a/b", "1 / 4"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(CompatbenchError, match="give I/N"):
        Shard.parse(text)
    assert str(Shard.parse("3/8")) == "3/8"
