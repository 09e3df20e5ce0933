"""Runs of a tiny suite, as 'compatbench run' does them, that cost a second and not ten.

They are forked from a process that has loaded everything, and so are their workers; all that
follows is what the command does.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from compatbench.cli import main
from compatbench.data.cards import suite_cards
from compatbench.engine.execute import local
from compatbench.engine.plan import CellState, make_plan
from compatbench.engine.store import RunStore
from compatbench.tables.pages.leaderboard import render_pages
from compatbench.tables.suite_page import published_pages

METHODS = "zeroshot,gda,tip_adapter,taskres,simpleshot"
SUITE = """\
name: faults
title: Faults
upgrades: [[mini-clip, mini-eva-clip]]
tasks: [mini-weather]
shots: {shots}
seeds: [1, 2, 3]
training: {{views: 2, crop_scale: [0.5, 1.0], max_steps: 20}}
"""


class _Forked:
    """``multiprocessing`` as the executor sees it: a new worker is a copy of this process."""

    def __getattr__(self, name: str) -> object:
        return getattr(multiprocessing, name)

    @staticmethod
    def get_context(_: str) -> object:
        return multiprocessing.get_context("fork")


def prepare(folder: Path, cache: Path, shots: list[int]) -> Path:
    """Writes the suite and loads what runs need, so that copies of this process have it.

    Returns:
        The suite's file.
    """
    os.environ["COMPATBENCH_CACHE"] = str(cache)
    local.multiprocessing = _Forked()  # type: ignore[assignment]
    importlib.import_module("compatbench.cli.run")
    path = folder / "faults.yaml"
    path.write_text(SUITE.format(shots=shots))
    suite_cards.read(str(path))
    planned(path, folder / "nothing")
    return path


def planned(suite: Path, out: Path) -> list[CellState]:
    """The cells of the suite, with what a folder's store holds of them."""
    return list(make_plan(str(suite), METHODS, out=out).planned)


def start(
    suite: Path, out: Path, *options: str, before: Callable[[], object] = lambda: None
) -> int:
    """Starts a run in a folder, which gets its output as ``log``; returns the process's id.

    Args:
        before: called in the new process before the command.
    """
    out.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        # A group of its own, so that whatever is left of it can be ended together.
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Not in the run's folder, which may be full.
        log = os.open(suite.parent / f"{out.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        before()
        arguments = ["run", "--suite", str(suite), "--methods", METHODS, "--out", str(out)]
        sys.argv = ["compatbench", *arguments, "--device", "cpu", *options]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(code)


def finish(pid: int) -> int:
    """Waits for a run; returns its exit code, or the negative number of the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def workers_of(pid: int) -> list[int]:
    """The worker processes of a run."""
    with contextlib.suppress(OSError):
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def kill(pid: int) -> bool:
    """Kills a process without warning; returns whether it was there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def results_of(suite: Path, out: Path, times: Path | None = None) -> dict[str, bytes]:
    """All that a run has published, by path, but times and memory.

    The leaderboard shows times, too: it is the one that these results give with the times of
    another run, if it is as these results and their own times have it.

    Args:
        times: the folder of that run.
    """
    card = suite_cards.read(str(suite))
    found = {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted((out / "results").rglob("*"))
        if path.is_file() and not path.name.endswith((".cost.csv", ".md"))
    }
    for path, text in render_pages(out, published_pages(out, card)).items():
        own = f"own {path.relative_to(out)}"
        found[own] = b"" if path.read_bytes() == text.encode() else b"not made of it"
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        shutil.copytree(out / "results", copy / "results")
        for path in ((times or out) / "results").rglob("*.cost.csv"):
            shutil.copy(path, copy / path.relative_to(times or out))
        for path, text in render_pages(copy, published_pages(copy, card)).items():
            found[str(path.relative_to(copy))] = text.encode()
    return found


def finished_in(suite: Path, out: Path) -> dict[str, int]:
    """Keys of finished cells, and when their records were written."""
    store, done = RunStore(out / "runs"), [i.cell.key for i in planned(suite, out) if i.done]
    return {key: store.cell_path(key).stat().st_mtime_ns for key in done}
