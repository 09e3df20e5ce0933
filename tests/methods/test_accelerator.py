"""Every method on a fake accelerator: the CPU's logits, no mix of devices, few waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compatbench.files.project_folders import content_files

# How often a training step may wait for the device, if at all: for validation images, after the
# first step and every hundredth; after each of Sinkhorn's steps, because unneeded steps would
# take longer than the wait; and for the classes that images have chosen, of which alone the prompts
# are encoded.
WAITS = {"cross_modal": 1, "plot": 3, "plot_pp": 5, "skip_tuning": 1}


@pytest.mark.slow
def test_methods_stay_on_the_device_and_rarely_wait_for_it() -> None:
    """A separate process is needed, because a device is registered for a whole process."""
    command = [sys.executable, str(Path(__file__).with_name("accelerator.py"))]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=True, env=environment
    )
    measured: set[str] = set()
    problems: list[str] = []
    for line in done.stdout.splitlines():
        figures: dict[str, Any] = json.loads(line)
        name = figures["method"]
        measured.add(name)
        if "error" in figures:
            problems.append(f"{name}: {figures['error']}")
            continue
        if figures["different"] > 1e-4:
            problems.append(f"{name}: the logits differ by {figures['different']}")
        if figures["each"] > WAITS.get(name, 0):
            problems.append(f"{name}: a step waits {figures['each']} times")
    assert problems == []
    assert {path.stem for path in content_files("methods")} <= measured
