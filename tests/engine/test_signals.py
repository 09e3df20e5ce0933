"""Runs that are stopped or killed, and lost parts of Ray: their output, and what they leave."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from .running import SlowRun

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]
RAY = ["--executor", "ray"]
NEEDS_RAY = pytest.mark.skipif(find_spec("ray") is None, reason="the extra 'ray' is not installed")
ON_RAY = pytest.param(RAY, marks=NEEDS_RAY)
LONG = pytest.mark.skipif(
    "COMPATBENCH_LONG_TESTS" not in os.environ,
    reason="two minutes; with COMPATBENCH_LONG_TESTS=1, as the workflow has it",
)


@pytest.mark.parametrize(
    ("options", "stop"),
    [
        (["--jobs", "1"], signal.SIGTERM),
        (["--jobs", "2"], signal.SIGINT),
        pytest.param(RAY, signal.SIGINT, marks=NEEDS_RAY),
    ],
)
def test_a_stopped_run_says_how_to_resume_and_leaves_nothing(
    tmp_path: Path, options: list[str], stop: signal.Signals
) -> None:
    with SlowRun(tmp_path, *options) as run:
        run.wait_for_fit()
        assert len(run.processes()) > (options != ["--jobs", "1"])
        # A terminal sends Ctrl-C to all processes of the run; a batch system ends the first.
        if stop == signal.SIGINT:
            os.killpg(run.process.pid, stop)
        else:
            run.process.send_signal(stop)
        _, errors = run.end(130)
        stopped, command = errors.strip().splitlines()
        assert "stopped; finished cells are kept" in stopped
        assert "run --suite smoke" in command
        assert not list(tmp_path.rglob("*.tmp"))


@NEEDS_RAY
def test_ray_that_is_stopped_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    with SlowRun(tmp_path, *RAY) as run:
        run.find("gcs_server")
        run.process.send_signal(signal.SIGTERM)
        _, errors = run.end(130)
        assert len(errors.strip().splitlines()) == 2


def take_terminal(name: str) -> None:
    """Make a terminal that of this session and of all streams."""
    terminal = os.open(name, os.O_RDWR)
    for stream in range(3):
        os.dup2(terminal, stream)


def test_a_run_whose_terminal_is_closed_ends_as_by_ctrl_c(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()  # the two ends of a terminal
    shown: list[bytes] = []
    terminal = partial(take_terminal, os.ttyname(theirs))

    def read() -> None:
        while not (tmp_path / "begun").exists():
            readable, _, _ = select.select([ours], [], [], 0.1)
            if readable:
                shown.append(os.read(ours, 1000))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with SlowRun(tmp_path, "--jobs", "2", before=terminal, TERM="xterm") as run:
        run.wait_for_fit()
        reader.join()  # a terminal that is read stays open
        os.close(theirs)
        os.close(ours)
        run.end(130)
        assert shown


@pytest.mark.parametrize("options", [["--jobs", "2"], ON_RAY])
def test_what_a_killed_run_leaves_is_removed_by_the_next_run(
    tmp_path: Path, options: list[str]
) -> None:
    with SlowRun(tmp_path / "killed", *options) as run:
        run.wait_for_fit()
        run.processes()  # remembers the sessions of its children
        run.process.kill()
        run.process.communicate()
        assert run.has_ended()  # with it all the processes that it has started
        runs = run.folder / "runs"
        assert len([*runs.glob("compatbench-tmp-*")]) == (options is RAY)
        assert len(run.left_over()) == (options is RAY)
        (run.folder / "begun").unlink()
        with SlowRun(run.folder, "--jobs", "1", TMPDIR=str(run.temporary)) as follower:
            follower.wait_for_fit()
            assert run.left_over() == []


def test_a_run_under_nohup_continues_when_its_terminal_is_closed(tmp_path: Path) -> None:
    ignore = partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    with SlowRun(tmp_path, "--jobs", "1", before=ignore) as run:
        run.wait_for_fit()
        run.process.send_signal(signal.SIGHUP)
        run.go_on()
        run.end(0)


def kill_part(name: str, folder: Path, in_fit: bool) -> None:
    """Kill a part of Ray while it starts or in a fit, and check that the run ends in one line."""
    with SlowRun(folder, *RAY, "--jobs", "1") as run:
        if in_fit:
            run.wait_for_fit()
        os.kill(run.find(name), signal.SIGKILL)
        _, errors = run.end(2)
        [line] = errors.splitlines()
        assert "the Ray cluster is lost: " in line
        assert "finished cells are kept, and the same command continues" in line


@LONG
@NEEDS_RAY
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


@LONG
@NEEDS_RAY
def test_a_run_continues_without_the_dashboard(tmp_path: Path) -> None:
    with SlowRun(tmp_path, *RAY, "--jobs", "1") as run:
        run.wait_for_fit()
        for pid, command in run.processes().items():
            if "dashboard.py" in command or "log_monitor.py" in command:
                os.kill(pid, signal.SIGKILL)
        run.go_on()
        output, errors = run.end(0)
        assert "1 of 1 cells" in output
        assert errors == ""
