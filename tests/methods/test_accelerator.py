"""Every method on a make-believe accelerator: the CPU's logits, no mix of devices, few waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compatbench.files.project_folders import content_files

# Most times that a training step may make the host wait for the device, where it is not never:
# for validation images, after the first step and every hundredth; and after each of Sinkhorn's
# steps, since those that are not needed would take longer than the wait.
WAITS = {"cross_modal": 1, "plot": 3, "plot_pp": 5}


@pytest.mark.slow
def test_methods_keep_to_the_device_and_do_not_wait_for_it_in_every_step() -> None:
    """In a process of its own, since a registered device is there for the whole process."""
    command = [sys.executable, str(Path(__file__).with_name("accelerator.py"))]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=True, env=environment
    )
    lines: list[dict[str, Any]] = [*map(json.loads, done.stdout.splitlines())]
    found = {figures["method"]: figures for figures in lines}
    assert {path.stem for path in content_files("methods")} <= set(found)
    assert {name: figures["error"] for name, figures in found.items() if "error" in figures} == {}
    far = {name: figures["different"] for name, figures in found.items()}
    assert {name: distance for name, distance in far.items() if distance > 1e-4} == {}
    waiting = {name: figures["each"] for name, figures in found.items()}
    assert {name: n for name, n in waiting.items() if n > WAITS.get(name, 0)} == {}
