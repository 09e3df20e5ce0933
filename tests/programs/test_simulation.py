"""Schedules that can be worked out by hand, and what holds for all of them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulate import Job, Site, simulate


def job(seconds: float, task: str = "pets", **values: object) -> Job:
    return replace(Job("clip", task, 1, 1, "coop", seconds), **values)


@pytest.mark.parametrize(
    ("cells", "workers", "makespan"),
    [
        ([job(1), job(2), job(4)], 1, 7),
        # The long begin, so that none is left alone at the end: 4 on one, 2, 1 and 1 on the other.
        ([job(1), job(1), job(2), job(4)], 2, 4),
        # The longest cell bounds any number of workers.
        ([job(1), job(1), job(10)], 100, 10),
        # Two of the cheap on each, and one of the costly.
        ([job(8, "cars"), job(8, "cars"), *(job(1, "pets") for _ in range(4))], 2, 10),
    ],
)
def test_cells_are_shared_out(cells: list[Job], workers: int, makespan: float) -> None:
    outcome = simulate(cells, workers, Site())
    work = sum(cell.seconds for cell in cells)
    assert (outcome.makespan, outcome.spent["compute"]) == (makespan, work)
    assert outcome.idle == workers * makespan - work


def test_weights_are_loaded_once_by_each_worker() -> None:
    cells = [job(1, backbones=("clip", "eva")) for _ in range(5)]
    site = Site({"clip": 10, "eva": 20}, worker_rate=10)
    outcome = simulate(cells, 1, site)
    assert outcome.makespan == 1 + 2 + 5
    assert outcome.spent["load"] == 3
    # Over one file system, requests are served in turn: ends at 1, 2, 4 and 6 s.
    both = simulate(cells, 2, replace(site, shared_rate=10))
    assert both.spent["load"] == (1 + 3) + (2 + 4)


def test_features_are_encoded_once_and_waited_for() -> None:
    cells = [job(1, features=("train",)) for _ in range(4)]
    outcome = simulate(cells, 2, Site(encode_seconds={"train": 5}))
    assert outcome.makespan == 5 + 2
    nothing = dict.fromkeys(("load", "store", "lost"), 0)
    assert outcome.spent == {"compute": 4, "encode": 5, "wait": 5, **nothing}


def test_records_are_written_at_the_rate_of_the_store() -> None:
    cells = [job(1, task=f"t{i}", writes=4) for i in range(3)]
    # All three are ready after a second, and are written one after the other.
    assert simulate(cells, 3, Site(write_rate=2)).makespan == 1 + 3 * 2


def test_a_death_costs_what_was_done_of_a_cell_and_the_way_back() -> None:
    def lives(seed: int) -> tuple[float, float]:
        draw = random.Random(seed)
        return draw.expovariate(1 / 10), draw.expovariate(1 / 10)

    # Two cells, of 5 and 4 seconds; the second is at work when the worker dies, and ends after.
    seed, death = next((s, lives(s)[0]) for s in range(99) if 5 < lives(s)[0] < 9 < lives(s)[1])
    site = Site(mean_life=10, restart=3, seed=seed)
    outcome = simulate([job(5), job(4)], 1, site)
    assert outcome.deaths == 1
    assert outcome.makespan == pytest.approx(death + 3 + 4)
    assert outcome.spent["lost"] == pytest.approx(death - 5 + 3)
    assert outcome.spent["compute"] == pytest.approx(5 + 4)


jobs = st.lists(
    st.builds(
        Job,
        source=st.sampled_from(["b16", "l14"]),
        task=st.sampled_from(["pets", "cars", "food"]),
        shots=st.sampled_from([1, 16]),
        seed=st.integers(1, 2),
        name=st.just("coop"),
        seconds=st.floats(0.01, 100),
    ),
    min_size=1,
    max_size=40,
)


@given(jobs, st.integers(1, 12))
def test_no_schedule_beats_its_bounds_and_none_is_twice_as_long(
    cells: list[Job], workers: int
) -> None:
    outcome = simulate(cells, workers, Site())
    work = sum(cell.seconds for cell in cells)
    longest = max(cell.seconds for cell in cells)
    assert outcome.makespan >= max(longest, work / workers) * (1 - 1e-9)
    # No worker idles while a cell waits (Graham's bound).
    assert outcome.makespan <= (work / workers + longest) * (1 + 1e-9)
    assert outcome.spent["compute"] == pytest.approx(work)


@given(jobs, st.integers(1, 6), st.integers(0, 5))
def test_deaths_lose_no_cell_and_the_same_seed_gives_the_same_run(
    cells: list[Job], workers: int, seed: int
) -> None:
    site = Site(mean_life=500, restart=5, seed=seed)
    outcome = simulate(cells, workers, site)
    assert outcome == simulate(cells, workers, site)
    work = sum(cell.seconds for cell in cells)
    assert outcome.spent["compute"] == pytest.approx(work)
    whole = workers * outcome.makespan
    assert sum(outcome.spent.values()) <= whole * (1 + 1e-9)
