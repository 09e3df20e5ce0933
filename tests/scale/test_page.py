"""The page and the figure are what the script makes of what is committed."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import real_run
import report
from costs import Assumptions, Costs, Measured, count_costs
from matrix import METHODS
from report import DOCS, GPUS, LABEL, make_page, picture, typical_run

from compatbench.tables.figures.charts import draw
from compatbench.tables.figures.render import is_current

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def costs() -> Costs:
    return count_costs(Measured.read(), Assumptions())


def test_page_and_figure_are_made_again_byte_for_byte(costs: Costs) -> None:
    measured = Measured.read()
    outcomes = [typical_run(costs, gpus) for gpus in GPUS]
    page = make_page(measured, Assumptions(), costs, outcomes)
    assert (DOCS / "scale.md").read_text(encoding="utf-8") == page
    for field in fields(Assumptions):
        assert f"`--{field.name.replace('_', '-')}`" in page
    for method in METHODS:
        assert f"| {method} |" in page
    assert "{" not in page
    assert len(costs.jobs) == len(METHODS) * 11 * 3 * 5 * 5
    drawn = draw(picture(costs, outcomes), LABEL)
    assert is_current((DOCS / "scale.svg").read_bytes(), drawn)


def test_a_plan_s_disk_and_memory_are_within_half_of_what_a_run_took() -> None:
    """The run is that of ``real_run.json``; what is counted is counted again."""
    found = real_run.read()
    assert real_run.count() == found["counted"]  # else run it again
    for name, counted in found["counted"].items():
        assert 1 / 1.5 < counted / found["used"][name] < 1.5, name


def test_a_faster_gpu_makes_cells_shorter_down_to_the_launching_of_steps(costs: Costs) -> None:
    endless = count_costs(Measured.read(), replace(Assumptions(), gpu_rate=1e30)).jobs
    pairs = list(zip(costs.jobs, endless, strict=True))
    assert all(fast.seconds <= slow.seconds for slow, fast in pairs)
    assert max(slow.seconds / fast.seconds for slow, fast in pairs) > 100
    # 200 epochs of 160 images, in batches of 32.
    cell = ("vit-b16-openai", "eurosat", 16, 1, "coop")
    [eurosat] = (
        job for job in endless if (job.source, job.task, job.shots, job.seed, job.method) == cell
    )
    assert eurosat.seconds == pytest.approx(200 * 5 * 0.02)


def test_options_reach_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["report.py", "--restart", "123", "--out", str(tmp_path)])
    for name, value in {"GPUS": (1, 64), "LIVES": (1000.0,), "DRAWS": 1}.items():
        monkeypatch.setattr(report, name, value)
    report.main()
    assert "| `--restart` | 123 | s |" in (tmp_path / "scale.md").read_text()
    assert (tmp_path / "scale.svg").is_file()
