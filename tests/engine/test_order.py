"""Cells run seed by seed. Cells that share features stay together, in a worker and in a shard."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from compatbench.engine.order import divide, longest_first, order_cells


@dataclass(frozen=True)
class Toy:
    """A cell with a place and a cost."""

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
    cells = []
    for task in ("food", "cars"):
        for seed in (2, 1):
            cells.append(Toy(task=task, seed=seed, name="coop", cost=90.0))
            cells.append(Toy(task=task, seed=seed, name="gda", cost=1.0))
            cells.append(Toy(task=task, seed=seed, name="taskres", cost=1.2))
    cheap = ["gda food", "taskres food", "gda cars", "taskres cars"]
    one_seed = [*cheap, "coop food", "coop cars"]
    found = [f"{cell.seed} {cell.name} {cell.task}" for cell in order_cells(cells, cost)]
    # Seeds keep the suite's order.
    assert found == [f"2 {each}" for each in one_seed] + [f"1 {each}" for each in one_seed]
    assert order_cells([], cost) == []


def test_each_worker_begins_with_another_task_and_tasks_in_no_mean_come_last() -> None:
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
    """Two workers take the cells in order. A change is a method that is half or wholly finished."""
    seconds = [0.3] * 24 + [4, 5, 5, 5, 6, 7, 8, 9, 11, 11, 12, 12, 13, 13, 14, 14, 14, 15]
    seconds += [17, 18, 18, 18, 19, 20, 20, 27, 32]
    speed_up = 0.5  # of the times of fits in 2026
    cells = []
    for number, each in enumerate(seconds):
        for task in range(7):
            name = f"method{number:02}"
            cells.append(Toy(task=f"task{task}", name=name, cost=speed_up * each, number=number))
    free = [0.0, 0.0]  # the time at which each worker is free
    ends: list[tuple[float, str]] = []
    for cell in order_cells(cells, cost, workers=2):
        free.sort()
        free[0] += cell.cost
        ends.append((free[0], cell.name))
    done = Counter[str]()
    changes: list[float] = []
    for end, name in sorted(ends):
        done[name] += 1
        if done[name] in (4, 7):
            changes.append(end)
    assert changes[0] < 60
    assert max(after - before for before, after in pairwise(changes)) < 30


def test_for_many_workers_the_longest_cells_begin_first() -> None:
    small = []
    for number in range(500):
        small.append(Toy(seed=1, cost=1, number=number))
        small.append(Toy(seed=2, cost=2, number=number))
    long = Toy(seed=2, cost=100.0, number=9)
    ordered = longest_first([*small, long, Toy(seed=1, cost=1.5)], cost)
    assert ordered[:2] == [long, Toy(seed=1, cost=1.5)]
    assert [cell.seed for cell in ordered[2:]] == [1] * 500 + [2] * 500
    assert longest_first([], cost) == []
