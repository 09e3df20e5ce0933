"""Parts of Ray that die under a run, on a cluster that it has started."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .running import slow_run

pytest.importorskip("ray", reason="the extra 'ray' is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
    pytest.mark.skipif(
        "COMPATBENCH_LONG_TESTS" not in os.environ,
        reason="two minutes; with COMPATBENCH_LONG_TESTS=1, as the workflow has it",
    ),
]
# A run says within a minute that its cluster is lost; on a machine that does much else, later.
LIMIT = 4 * 60.0


def kill_part(name: str, folder: Path, in_fit: bool) -> None:
    """Kills a part of Ray while it starts or in a fit; the run ends with one line, cleanly."""
    with slow_run(folder, "--executor", "ray", "--jobs", "1") as run:
        if in_fit:
            run.wait_for_fit()
        os.kill(run.find(name), signal.SIGKILL)
        output, errors = run.process.communicate(timeout=LIMIT)
        assert run.process.returncode == 2, output + errors
        [line] = errors.splitlines()
        assert "the Ray cluster is lost: " in line
        assert "finished cells are kept, and the same command continues" in line
        assert run.left_over() == []
        assert run.has_ended()


@pytest.mark.parametrize(
    ("in_fit", "parts"),
    # While it starts, one that Ray waits for, and one that the node starts later.
    [(False, ["gcs_server", "ray::RuntimeEnvAgent"]), (True, ["gcs_server", "raylet"])],
)
def test_a_vital_part_that_dies_ends_the_run_in_one_line_within_a_minute(
    tmp_path: Path, in_fit: bool, parts: list[str]
) -> None:
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
        run.go_on()
        output, errors = run.process.communicate(timeout=LIMIT)
        assert run.process.returncode == 0, errors
        assert "1 of 1 cells" in output
        assert errors == ""
        assert run.left_over() == []
        assert run.has_ended()
