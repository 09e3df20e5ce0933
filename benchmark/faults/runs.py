"""Runs of a tiny suite by the commands that people type, which cost a second and not ten.

They are forked from a process that has loaded everything, and so are their workers; all that
follows is what the commands do.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import compatbench as cb
from compatbench.engine.store import RunStore

TRAINED = ("gda", "tip_adapter", "taskres", "simpleshot")
METHODS = ("zeroshot", *TRAINED)
FORK = multiprocessing.get_context("fork")
BACKBONES = {"mini-clip", "mini-eva-clip"}
SUITE = """\
name: faults
title: Faults
upgrades: [[mini-clip, mini-eva-clip]]
tasks: [mini-weather]
shots: {shots}
seeds: [1, 2, 3]
training: {{views: 2, crop_scale: [0.5, 1.0], max_steps: 20}}
"""


@dataclass(frozen=True)
class Place:
    """The suite, and a folder that it is run in; logs lie beside the folder, which may be full.

    Attributes:
        seconds: what a run takes that nothing disturbs.
    """

    suite: Path
    folder: Path
    seconds: float = 0.0

    def beside(self, name: str) -> Place:
        """The same suite in another folder."""
        return replace(self, folder=self.folder.with_name(name))

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    def run(self, *options: str, before: Callable[[], object] | None = None) -> BaseProcess:
        """Starts a run, with something that is called in its process ``before`` the command."""
        words = ["run", "--suite", str(self.suite), "--methods", ",".join(METHODS)]
        return self.start(*words, "--device", "cpu", *options, before=before)

    def start(self, *words: str, before: Callable[[], object] | None = None) -> BaseProcess:
        """Starts a command on the folder, whose output goes to ``log``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [*words, "--out", str(self.folder)]
        process = FORK.Process(target=_type_command, args=(command, self.log, before))
        process.start()
        return process

    def plan(self) -> cb.api.Plan:
        """What a run here would do, and what is done."""
        return cb.plan(str(self.suite), list(METHODS), out=self.folder)

    def finished(self) -> dict[str, int]:
        """Keys of finished cells, and when their records were written."""
        store, times = RunStore(self.folder / "runs"), {}
        for path in (store.folder / "cells").rglob("*.json"):
            record = store.read(path.stem)
            measured = (
                {row.backbone for row in record.records if row.status == "ok"} if record else set()
            )
            if measured == BACKBONES:
                times[path.stem] = path.stat().st_mtime_ns
        return times

    def published(self, times: Path | None = None) -> dict[str, bytes]:
        """All that a run has published, by path, but times and memory.

        The leaderboard shows times, too: it is the one that these results give with the times
        of another run, if it is as these results and their own times have it.

        Args:
            times: the folder of that run.
        """
        contents = {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted((self.folder / "results").rglob("*"))
            if path.is_file() and not path.name.endswith((".cost.csv", ".md"))
        }
        fresh = finish(self.start("report", "--check"))
        contents["pages are up to date"] = str(fresh == 0).encode()
        with tempfile.TemporaryDirectory() as name:
            copy = Place(self.suite, Path(name) / "copy")
            shutil.copytree(self.folder / "results", copy.folder / "results")
            for path in ((times or self.folder) / "results").rglob("*.cost.csv"):
                target = copy.folder / path.relative_to(times or self.folder)
                shutil.copy(path, target)
            if finish(copy.start("report")):
                raise SystemExit(copy.log.read_text())
            for path in copy.folder.rglob("*.md"):
                contents[str(path.relative_to(copy.folder))] = path.read_bytes()
        return contents


def prepare(folder: Path, shots: list[int]) -> Place:
    """Writes the suite and loads what runs need, so that copies of this process have it."""
    os.environ["COMPATBENCH_CACHE"] = str(folder / "cache")
    os.environ["COMPATBENCH_CARDS"] = str(folder / "cards")
    multiprocessing.get_context = lambda method=None: FORK  # type: ignore[assignment]
    suite = folder / "cards" / "suites" / "faults.yaml"
    suite.parent.mkdir(parents=True)
    suite.write_text(SUITE.format(shots=json.dumps(shots)))
    place = Place(suite, folder / "undisturbed")
    place.plan()
    __import__("compatbench.cli.run")
    return place


def _type_command(words: list[str], log: Path, before: Callable[[], object] | None) -> None:
    # A group of its own, so that whatever is left of it can be ended together.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    if before is not None:
        before()
    sys.argv = ["compatbench", *words]
    from compatbench.cli import main

    main()


def finish(process: BaseProcess) -> int:
    """Waits for a command; returns its exit code, or the negative number of the signal."""
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def workers_of(process: BaseProcess) -> list[int]:
    """The worker processes of a run."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        return [*map(int, children.split())]
    return []


def kill(pid: int) -> bool:
    """Kills a process without warning; returns whether it was there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


Figures = dict[str, Any]  # what a scenario has counted
