"""Parts of Ray that die under a run, on a cluster that it has started."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .running import slow_run

pytest.importorskip("ray", reason="the extra 'ray' is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]
# Vital parts; the rest, such as the dashboard, a run goes on without.
VITAL = ["gcs_server", "raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent"]
LIMIT = 60.0  # seconds until a run has said that its cluster is lost


def kill_part(name: str, folder: Path, in_fit: bool) -> None:
    """Kills a part of Ray while it starts or in a fit; the run ends with one line, cleanly."""
    with slow_run(folder, "--executor", "ray", "--jobs", "1") as run:
        if in_fit:
            run.wait_for_fit()
        os.kill(run.find(name), signal.SIGKILL)
        begin = time.monotonic()
        output, errors = run.process.communicate(timeout=2 * LIMIT)
        assert time.monotonic() - begin < LIMIT
        assert run.process.returncode == 2, output + errors
        [line] = errors.splitlines()
        assert "the Ray cluster is lost: " in line
        assert "finished cells are kept, and the same command continues" in line
        assert run.left_over() == []
        assert run.has_ended()


@pytest.mark.parametrize(("in_fit", "parts"), [(False, VITAL[::3]), (True, VITAL[:3])])
def test_a_vital_part_that_dies_ends_the_run_in_one_line_within_a_minute(
    tmp_path: Path, in_fit: bool, parts: list[str]
) -> None:
    """While it starts, one that Ray waits for, and one that the node starts later.

    A raylet ends itself when an agent of its dies, so one agent will do in a fit.
    """
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(kill_part, name, tmp_path / name, in_fit) for name in parts]
    for each in runs:
        each.result()


def test_a_run_goes_on_without_the_dashboard(tmp_path: Path) -> None:
    with slow_run(tmp_path, "--executor", "ray", "--jobs", "1") as run:
        run.wait_for_fit()
        for pid, command in run.processes().items():
            if "dashboard.py" in command or "log_monitor.py" in command:
                os.kill(pid, signal.SIGKILL)
        output, errors = run.process.communicate(timeout=300)
        assert run.process.returncode == 0, errors
        assert "1 of 1 cells" in output
        assert errors == ""
        assert run.left_over() == []
        assert run.has_ended()
