"""Cells that share weights and features stay on one worker, and no worker idles while any wait."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from compatbench.engine.execute.ray_batches import Batches, group_of, make_batches


@dataclass(frozen=True)
class Toy:
    """A cell of which only the place and the cost matter."""

    source: str = "clip"
    task: str = "pets"
    shots: int = 1
    seed: int = 1
    cost: float = 1.0
    number: int = 0


def cost(cell: Toy) -> float:
    return cell.cost


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


def test_a_worker_finishes_its_group_before_it_begins_another() -> None:
    cells = [Toy(task=task, number=i) for i in range(3) for task in ("pets", "cars")]
    batches = Batches(cells, cost)
    tasks = [cell.task for _ in cells if (cell := batches.take("worker"))]
    assert tasks == ["pets"] * 3 + ["cars"] * 3


def test_the_costliest_group_goes_first() -> None:
    batches = Batches([Toy(task="small"), Toy(task="large", cost=2)], cost)
    first = batches.take("worker")
    assert first is not None
    assert first.task == "large"


def test_the_costly_come_first_and_cells_of_like_cost_by_draws() -> None:
    cells = [
        Toy(shots=shots, seed=seed, cost=cost)
        for cost in (1.0, 1.2, 100.0)
        for shots, seed in ((1, 1), (16, 2), (16, 1))
    ]
    [batch] = make_batches(cells, cost).values()
    assert [(cell.shots, cell.seed, cell.cost) for cell in batch] == [
        *((16, 1, 100), (16, 2, 100), (1, 1, 100)),
        *((16, 1, 1), (16, 1, 1.2), (16, 2, 1), (16, 2, 1.2), (1, 1, 1), (1, 1, 1.2)),
    ]


def test_workers_begin_with_groups_of_their_own() -> None:
    cells = [Toy(task=task, number=i) for task in ("pets", "cars") for i in range(4)]
    batches = Batches(cells, cost)
    first, second = batches.take("a"), batches.take("b")
    assert first is not None
    assert second is not None
    assert group_of(first) != group_of(second)


def test_an_idle_worker_takes_the_first_half_of_the_costliest_batch() -> None:
    batches = Batches([Toy(number=i) for i in range(9)], cost)
    assert batches.take("owner") == Toy(number=0)
    # Eight wait; the thief takes the first four, for its owner has something to do.
    assert [batches.take("thief") for _ in range(4)] == [Toy(number=i) for i in (1, 2, 3, 4)]
    assert [batches.take("owner") for _ in range(4)] == [Toy(number=i) for i in (5, 6, 7, 8)]
    assert batches.take("owner") is None
    assert batches.take("thief") is None


def test_halves_are_of_cost_and_not_of_cells() -> None:
    cells = [Toy(cost=10), Toy(cost=10, number=1), *(Toy(number=2 + i) for i in range(10))]
    batches = Batches(cells, cost)
    batches.take("owner")
    # The one that takes as long as the ten others together.
    assert batches.take("thief") == Toy(cost=10, number=1)
    assert batches.take("owner") == Toy(number=2)


def test_the_last_waiting_cell_is_stolen_too() -> None:
    batches = Batches([Toy(), Toy(number=1)], cost)
    batches.take("owner")
    assert batches.take("thief") == Toy(number=1)


def test_what_is_given_back_goes_first_and_only_where_it_may() -> None:
    batches = Batches([Toy(number=i) for i in range(4)], cost)
    lost = batches.take("dead")
    assert lost is not None
    batches.leave("dead")
    batches.give_back(lost)
    assert len(batches) == 4
    assert batches.take("same node", lambda cell: False) == Toy(number=1)
    assert batches.take("other node", lambda cell: True) == lost


def test_the_batch_of_a_worker_that_left_is_free() -> None:
    batches = Batches([Toy(number=i) for i in range(3)], cost)
    batches.take("dead")
    batches.leave("dead")
    assert [batches.take("next") for _ in range(3)] == [Toy(number=1), Toy(number=2), None]


@given(toys, st.lists(st.integers(0, 4), min_size=1), st.integers(0, 3))
def test_every_cell_is_handed_out_once_whoever_asks(
    cells: list[Toy], asking: list[int], leavers: int
) -> None:
    batches = Batches(cells, cost)
    taken: list[Toy] = []
    for turn in range(len(cells)):
        worker = asking[turn % len(asking)]
        assert len(batches) == len(cells) - len(taken)
        cell = batches.take(worker)
        assert cell is not None
        taken.append(cell)
        if worker < leavers:
            batches.leave(worker)
    assert batches.take("last") is None
    assert Counter(taken) == Counter(cells)


def test_a_long_cell_goes_first_whoever_has_its_batch() -> None:
    small = [Toy(task="pets", cost=2, number=i) for i in range(3)]
    large = [Toy(task="cars", cost=5, number=i) for i in range(2)]
    batches = Batches([*small, *large], cost)
    assert batches.take("owner of cars") == large[0]
    assert batches.take("owner of pets") == large[1]  # of 11 seconds left, two workers need 5.5
    assert batches.take("owner of pets") == small[0]


def test_an_eighth_of_the_work_is_not_long() -> None:
    cells = [Toy(task=task, number=i) for task in ("pets", "cars") for i in range(8)]
    batches = Batches(cells, cost)
    tasks = [cell.task for _ in range(4) for who in "ab" if (cell := batches.take(who))]
    assert tasks == ["pets", "cars"] * 4
