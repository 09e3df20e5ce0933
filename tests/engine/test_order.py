"""Cells run seed by seed; those that share features stay together, in a worker and in a shard."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from compatbench.engine.order import divide, longest_first, order_cells


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


def test_cells_run_by_seed_then_by_cost_of_the_method_then_by_task() -> None:
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


def test_workers_begin_with_tasks_of_their_own_and_what_is_in_no_mean_is_last() -> None:
    tasks = ("mine", "food", "cars", "pets")
    cells = [Toy(task=task, name=name) for task in tasks for name in ("coop", "gda")]
    cells += [Toy(task=task, name="slow", cost=1000.0) for task in tasks]
    order = order_cells(cells, cost, last=["mine"], workers=2)
    assert [f"{cell.name} {cell.task}" for cell in order] == [
        *("coop food", "coop cars", "gda food", "gda cars", "coop pets", "gda pets"),
        *("slow food", "slow cars", "slow pets", "coop mine", "gda mine", "slow mine"),
    ]


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


def test_a_ranking_changes_every_half_minute_with_costs_as_those_of_the_mini_suite() -> None:
    """Two workers take the cells in order; a method's first half, or a whole one, is a change."""
    seconds = [0.3] * 24 + [4, 5, 5, 5, 6, 7, 8, 9, 11, 11, 12, 12, 13, 13, 14, 14, 14, 15]
    seconds += [17, 18, 18, 18, 19, 20, 20, 27, 32]
    tasks, aim = [f"task{number}" for number in range(7)], 0.5  # of what fits took in 2026
    cells = [
        Toy(task=task, name=f"method{number:02}", cost=aim * each, number=number)
        for number, each in enumerate(seconds)
        for task in tasks
    ]
    free, done, changes = [0.0, 0.0], Counter[str](), list[float]()
    ends = list[tuple[float, str]]()
    for cell in order_cells(cells, cost, workers=2):
        free.sort()
        free[0] += cell.cost
        ends.append((free[0], cell.name))
    for end, name in sorted(ends):
        done[name] += 1
        if done[name] in (4, 7):
            changes.append(end)
    assert changes[0] < 60
    assert max(after - before for before, after in pairwise(changes)) < 30


def test_for_many_workers_what_takes_long_begins_first() -> None:
    small = [
        Toy(seed=seed, cost=cost, number=i) for i in range(500) for seed, cost in ((1, 1), (2, 2))
    ]
    long = Toy(seed=2, cost=100.0, number=9)
    ordered = longest_first([*small, long, Toy(seed=1, cost=1.5)], cost)
    assert ordered[:2] == [long, Toy(seed=1, cost=1.5)]
    assert [cell.seed for cell in ordered[2:]] == [1] * 500 + [2] * 500
    assert longest_first([], cost) == []
