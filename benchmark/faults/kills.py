"""Kills drivers and workers at random moments, until the matrix is done all the same."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from commands import finish, finished_in, kill, results_of, start, workers_of

# Seconds between kills, at most: longer than a run needs to begin, shorter than one takes.
LONGEST = 2.5
WORKERS = 0.6  # share of kills, where there are workers
# A worker's own death costs an attempt; some runs try again themselves, others are repeated.
OPTIONS = (["--jobs", "2"], ["--jobs", "2", "--retry", "killed:9"], ["--jobs", "1"])


def run(suite: Path, folder: Path, undisturbed: Path, kills: int) -> dict[str, Any]:
    """Makes ``kills`` kills, over as many rounds as they take, each in a new folder."""
    draw = random.Random(1)
    made: Counter[str] = Counter()
    rounds, runs, repeated, differing = 0, 0, 0, 0
    begin = time.monotonic()
    while made.total() < kills:
        out = folder / f"kills-{rounds}"
        finished: dict[str, int] = {}
        code = -1
        while code != 0:
            runs += 1
            code = _run_once(suite, out, draw, made, kills)
            now = finished_in(suite, out)
            repeated += sum(now.get(key) != written for key, written in finished.items())
            finished = now
        rounds += 1
        differing += results_of(suite, out, undisturbed) != results_of(suite, undisturbed)
    return {
        "kills": made.total(),
        "of drivers": made["driver"],
        "of workers": made["worker"],
        "runs": runs,
        "rounds": rounds,
        "rounds with other results": differing,
        "finished cells run again or lost": repeated,
        "seconds": round(time.monotonic() - begin),
    }


def _run_once(suite: Path, out: Path, draw: random.Random, made: Counter[str], kills: int) -> int:
    """One run, disturbed while kills are left; returns its exit code."""
    pid = start(suite, out, *draw.choice(OPTIONS))
    while made.total() < kills:
        time.sleep(draw.uniform(0, LONGEST))
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        workers = workers_of(pid)
        victim = "worker" if workers and draw.random() < WORKERS else "driver"
        made[victim] += kill(pid if victim == "driver" else draw.choice(workers))
        if victim == "driver":
            break
    return finish(pid)
