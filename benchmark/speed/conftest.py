"""Settings of the speed suites: one thread, CPU time, and a machine that is named."""

from __future__ import annotations

import platform
from typing import Any

import pytest
import torch
from workload import Workload, make_workload, matmul_rate


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # The default test command disables benchmarks; here they are what is asked for.
    config.option.benchmark_disable = False
    torch.set_num_threads(1)


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """What decides a timing, and nothing that names the owner."""
    processor = machine_info.get("cpu", {})
    facts = {
        "processor": processor.get("brand_raw") or platform.processor(),
        "system": machine_info.get("system"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "matmul_gflops": round(matmul_rate() / 1e9, 1),
    }
    machine_info.clear()
    machine_info.update(facts)


@pytest.fixture(scope="session")
def b16() -> Workload:
    """ViT-B/16 with random weights."""
    return make_workload()
