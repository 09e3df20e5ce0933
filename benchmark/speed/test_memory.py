"""1,000 ImageNet names in little memory: peak, time, and the share of the machine's own rate."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.benchmark(timer=time.perf_counter)


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """In a process of its own: the peak is that of nothing else."""
    script = Path(__file__).parent / "imagenet_memory.py"
    run = subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def test_imagenet_within_2_gib(benchmark: Any, measured: dict[str, Any]) -> None:
    # The times are the subprocess's own; the fixture only carries them into the JSON.
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info.update(measured)
    assert measured["budget_peak_gib"] < 2
    assert measured["budget_seconds"] < 1.6 * measured["free_seconds"]
    assert measured["same_bits"]
    assert measured["free_rate"] > 0.7
    assert measured["budget_rate"] > 0.7
