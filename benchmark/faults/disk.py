"""Lets the disk fill up in the middle of runs, makes room bit by bit, and goes on."""

from __future__ import annotations

import resource
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

from commands import finish, finished_in, results_of, start

from compatbench.engine.store import RunStore
from compatbench.engine.store_check import find_files, find_problems

ROOM = 2**26  # enough for all


def run(suite: Path, folder: Path, undisturbed: Path, steps: int) -> dict[str, Any]:
    """A run on a small disk (tmpfs), which is full ``steps`` times, each time with more room.

    Without the right to mount one, a limit on the size of files does: what is larger cannot
    be written, which the system tells in the same way.
    """
    out = folder / "full"
    out.mkdir()
    begin = time.monotonic()
    mounted = _mount(out, "nr_inodes=0,size=16k")
    stopped, unclear, half_written, lost = 0, 0, 0, 0
    finished: dict[str, int] = {}
    log = folder / "full.log"
    try:
        for step in range(steps):
            if mounted:
                _mount(out, f"remount,size={(step + 1) * 64}k")
            limit = 2**12 + step * 2**9
            bound = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
            log.unlink(missing_ok=True)
            options = {} if mounted else {"before": bound}
            code = finish(start(suite, out, "--jobs", "1", **options))
            stopped += code != 0
            unclear += code != 0 and not _is_clear(log.read_text())
            store = RunStore(out / "runs")
            half_written += len(list(out.rglob("*.tmp")))
            half_written += len(find_problems(find_files(store)))
            now = finished_in(suite, out)
            lost += sum(now.get(key) != written for key, written in finished.items())
            finished = now
        if mounted:
            _mount(out, f"remount,size={ROOM}")
        code = finish(start(suite, out, "--jobs", "1"))
        same = results_of(suite, out, undisturbed) == results_of(suite, undisturbed)
    finally:
        if mounted:
            subprocess.run(["umount", str(out)], check=True)
    return {
        "how": "tmpfs" if mounted else "RLIMIT_FSIZE",
        "runs stopped by a full disk": stopped,
        "of these without one clear line": unclear,
        "files half-written": half_written,
        "finished cells lost": lost,
        "exit code with room": code,
        "same results": same,
        "seconds": round(time.monotonic() - begin),
    }


def _mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _is_clear(log: str) -> bool:
    """Whether the last thing said is one line on what cannot be written, without a traceback."""
    lines = [line for line in log.splitlines() if line.strip()]
    return "Traceback" not in log and lines[-1].startswith("compatbench: cannot write ")
