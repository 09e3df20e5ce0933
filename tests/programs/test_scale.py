"""What the page of scale says, and what it counts."""

from __future__ import annotations

from dataclasses import replace

import pages
import pytest
import real_run
import torch
from hypothesis import given
from hypothesis import strategies as st
from launches import count_step
from model_sizes import measure_architecture
from operations import Counter
from simulate import Job, Site, simulate
from unrecorded_methods import UNRECORDED

from compatbench.engine.gpu_hours import read_launches
from compatbench.engine.model_size import measure_model
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import TrainedMethod


@pytest.mark.slow
def test_a_plan_s_disk_and_memory_are_within_half_of_what_a_run_took() -> None:
    """The run is that of ``real_run.json``; what is counted is counted again."""
    noted = real_run.read()
    assert real_run.count() == noted["counted"]  # else run it again
    for name, counted in noted["counted"].items():
        assert 1 / 1.5 < counted / noted["used"][name] < 1.5, name


@pytest.mark.slow
def test_assumptions_reach_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"GPUS": (1, 64), "LIVES": (1000.0,), "DRAWS": 1, "REAL": "smoke"}
    for name, value in few.items():
        monkeypatch.setattr(f"scale_page.{name}", value)
    page, picture = pages.make_files("scale", restart=123.0).values()
    assert b"| `restart` | 123 | s |" in page
    assert picture.startswith(b"<svg ")


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


def test_operations_that_compute_are_counted_in_both_passes() -> None:
    weight, images = torch.ones(3, 4, requires_grad=True), torch.ones(2, 4)
    with Counter() as counter:
        loss = (images @ weight.T).exp().view(-1).sum()
        assert counter.count == 3  # a product, exp, a sum; turning and flattening are views
        loss.backward()
    # One for the loss, exp's factor and product, the product in the weight.
    assert counter.count in (6, 7)


@pytest.mark.parametrize("name", ["coop", pytest.param("vpt_deep", marks=pytest.mark.slow)])
def test_the_table_counts_no_fewer_operations_than_a_step_has(name: str) -> None:
    counted, table = count_step(builtin_methods().get(name), 12), read_launches()[name]
    assert 0 < counted <= 1.05 * (table.fixed + 12 * table.per_block) < 1000


def test_every_method_that_is_trained_is_in_the_table() -> None:
    registry = builtin_methods()
    trained = {name for name in registry.names() if issubclass(registry.get(name), TrainedMethod)}
    assert trained ^ read_launches().keys() <= UNRECORDED


CONFIGS = {"vit-b16-openai": "ViT-B-16", "eva02-b16": "EVA02-B-16", "mobileclip-b": "MobileCLIP-B"}
CONFIGS |= {"siglip-b16": "ViT-B-16-SigLIP", "rn50-openai": "RN50", "coca-b32": "coca_ViT-B-32"}


@pytest.mark.parametrize("name", ["mini-clip", "mini-eva-clip", *CONFIGS])
def test_the_table_has_the_sizes_of_the_architectures(name: str) -> None:
    assert measure_model(name) == measure_architecture(CONFIGS.get(name, name))
