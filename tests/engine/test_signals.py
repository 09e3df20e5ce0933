"""Runs that are stopped or killed: what they say, and what they leave."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from .running import slow_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]
RAY = ["--executor", "ray"]


def skip_without_ray(options: list[str]) -> None:
    if "ray" in options:
        pytest.importorskip("ray", reason="the extra 'ray' is not installed")


@pytest.mark.parametrize(
    ("options", "stop"),
    [
        (["--jobs", "1"], signal.SIGTERM),
        (["--jobs", "2"], signal.SIGINT),
        (RAY, signal.SIGINT),
    ],
)
def test_a_run_that_is_stopped_says_how_to_go_on_and_leaves_nothing(
    tmp_path: Path, options: list[str], stop: signal.Signals
) -> None:
    skip_without_ray(options)
    with slow_run(tmp_path, *options) as run:
        run.wait_for_fit()
        assert len(run.processes()) > (options != ["--jobs", "1"])
        # A terminal sends Ctrl-C to all processes of the run; a batch system ends the first.
        if stop == signal.SIGINT:
            os.killpg(run.process.pid, stop)
        else:
            run.process.send_signal(stop)
        _, errors = run.process.communicate(timeout=120)
        assert run.process.returncode == 130, errors
        lines = errors.strip().splitlines()
        assert len(lines) == 2, errors
        assert "stopped; finished cells are kept" in lines[0]
        assert "run --suite smoke" in lines[1]
        assert not list(tmp_path.rglob("*.tmp"))
        assert run.left_over() == []
        assert run.has_ended()


def test_ray_that_is_stopped_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    skip_without_ray(RAY)
    with slow_run(tmp_path, *RAY) as run:
        run.find("gcs_server")
        run.process.send_signal(signal.SIGTERM)
        _, errors = run.process.communicate(timeout=120)
        assert run.process.returncode == 130, errors
        assert len(errors.strip().splitlines()) == 2, errors
        assert run.left_over() == []
        assert run.has_ended()


def take_terminal(name: str) -> None:
    """Makes it the one of this session, whose leader opens it, and all streams."""
    terminal = os.open(name, os.O_RDWR)
    for stream in range(3):
        os.dup2(terminal, stream)


def test_a_run_whose_terminal_is_closed_ends_as_by_ctrl_c(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    shown: list[bytes] = []
    terminal = partial(take_terminal, os.ttyname(theirs))

    def read() -> None:
        while not (tmp_path / "begun").exists():
            if select.select([ours], [], [], 0.1)[0]:
                shown.append(os.read(ours, 1000))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with slow_run(tmp_path, "--jobs", "2", before=terminal, TERM="xterm") as run:
        run.wait_for_fit()
        reader.join()  # a terminal that is read stays open
        os.close(theirs)
        os.close(ours)
        assert run.process.wait(60) == 130
        assert shown
        assert run.left_over() == []
        assert run.has_ended()


@pytest.mark.parametrize("options", [["--jobs", "2"], RAY])
def test_what_a_killed_run_leaves_is_removed_by_the_next_run(
    tmp_path: Path, options: list[str]
) -> None:
    skip_without_ray(options)
    with slow_run(tmp_path / "killed", *options) as run:
        run.wait_for_fit()
        run.processes()
        run.process.kill()
        run.process.communicate()
        assert run.has_ended()  # with it all the processes that it has started
        runs = run.folder / "runs"
        assert len([*runs.glob("compatbench-tmp-*")]) == 1
        assert len(run.left_over()) == (options is RAY)
        (run.folder / "begun").unlink()
        with slow_run(run.folder, "--jobs", "1", TMPDIR=str(run.temporary)) as follower:
            follower.wait_for_fit()
            assert run.left_over() == []
            assert len([*runs.glob("compatbench-tmp-*")]) == 1  # its own


def test_a_run_under_nohup_goes_on_when_its_terminal_is_closed(tmp_path: Path) -> None:
    ignore = partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    with slow_run(tmp_path, "--jobs", "1", before=ignore) as run:
        run.wait_for_fit()
        run.process.send_signal(signal.SIGHUP)
        run.go_on()
        assert run.process.wait(120) == 0
