"""Settings of the speed tests: one thread, CPU time, and a JSON of what the page shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from workload import Workload, make_workload, matmul_rate

from compatbench.engine.cell import provenance


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Run benchmarks, which the project's settings of pytest disable, on one thread."""
    config.option.benchmark_disable = False
    torch.set_num_threads(1)


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]
) -> None:
    """Keep what decides a timing and what the page shows, and nothing that names the owner."""
    cases = [benchmark["extra_info"] for benchmark in output_json["benchmarks"]]
    machine = {
        "processor": provenance()["processor"],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "matmul_gflops": round(matmul_rate() / 1e9, 1),
    }
    output_json.clear()
    output_json.update(machine=machine, cases=cases)


@pytest.fixture(scope="session")
def b16() -> Workload:
    """Return ViT-B/16 with random weights."""
    return make_workload()
