"""What the page of scale says, and what it counts."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import real_run
import scale_page
from costs import Assumptions, Costs, Measured, count_costs
from matrix import METHODS
from pages import read_page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def costs() -> Costs:
    return count_costs(Measured.read(), Assumptions())


def test_the_page_names_every_assumption_and_method(costs: Costs) -> None:
    page = read_page("scale.md")
    for field in fields(Assumptions):
        assert f"| `{field.name}` |" in page
    for method in METHODS:
        assert f"| {method} |" in page
    assert len(costs.jobs) == len(METHODS) * 11 * 3 * 5 * 5


def test_a_plan_s_disk_and_memory_are_within_half_of_what_a_run_took() -> None:
    """The run is that of ``real_run.json``; what is counted is counted again."""
    noted = real_run.read()
    assert real_run.count() == noted["counted"]  # else run it again
    for name, counted in noted["counted"].items():
        assert 1 / 1.5 < counted / noted["used"][name] < 1.5, name


def test_a_faster_gpu_makes_cells_shorter_down_to_the_launching_of_steps(costs: Costs) -> None:
    endless = count_costs(Measured.read(), replace(Assumptions(), gpu_rate=1e30)).jobs
    pairs = list(zip(costs.jobs, endless, strict=True))
    assert all(fast.seconds <= slow.seconds for slow, fast in pairs)
    assert max(slow.seconds / fast.seconds for slow, fast in pairs) > 100
    # 200 epochs of 160 images, in batches of 32.
    draw = ("vit-b16-openai", "eurosat", 16, 1, "coop")
    [eurosat] = (
        job for job in endless if (job.source, job.task, job.shots, job.seed, job.name) == draw
    )
    assert eurosat.seconds == pytest.approx(200 * 5 * 0.02)


def test_assumptions_reach_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"GPUS": (1, 64), "LIVES": (1000.0,), "DRAWS": 1, "REAL": "smoke"}
    for name, value in few.items():
        monkeypatch.setattr(scale_page, name, value)
    files = scale_page.make_files(restart=123.0)
    assert "| `restart` | 123 | s |" in files["scale.md"]
    assert files["scale.svg"].startswith(b"<svg ")
