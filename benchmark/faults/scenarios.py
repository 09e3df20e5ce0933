"""What is done to runs: kills, many writers of one folder, and a disk that fills up."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import time
from collections import Counter
from functools import cache, partial
from pathlib import Path
from typing import Any

from runs import TRAINED, Figures, Place, finish, kill, workers_of
from safetensors import safe_open

from compatbench.backbone import Backbone
from compatbench.method.registry import builtin_methods

# Between kills, at most, of what a run takes: longer than it needs to begin.
LONGEST = 0.6
WORKERS = 0.6  # share of kills, where there are workers
# A worker's own death costs an attempt; some runs try again themselves, others are repeated.
OPTIONS = (["--jobs", "2"], ["--jobs", "2", "--retry", "killed:9"], ["--jobs", "1"])
ROOM = 2**26  # bytes of a disk with enough for all


published_once = cache(Place.published)  # of the undisturbed run, which stays as it is


def kills(undisturbed: Place, count: int) -> Figures:
    """Kills drivers and workers at random, over as many rounds as it takes, each in a new folder.

    A round ends when a run ends well.
    """
    draw = random.Random(1)
    made: Counter[str] = Counter()
    rounds, started, repeated, differing = 0, 0, 0, 0
    expected = published_once(undisturbed)
    while made.total() < count:
        place = undisturbed.beside(f"kills-{rounds}")
        finished: dict[str, int] = {}
        code = -1
        while code != 0:
            started += 1
            code = _disturb(place, draw, made, count)
            now = place.finished()
            repeated += _changed(finished, now)
            finished = now
        rounds += 1
        differing += place.published(undisturbed.folder) != expected
    return {
        "kills": made.total(),
        "of drivers": made["driver"],
        "of workers": made["worker"],
        "runs": started,
        "rounds": rounds,
        "rounds with other results": differing,
        "finished cells run again or lost": repeated,
    }


def _disturb(place: Place, draw: random.Random, made: Counter[str], count: int) -> int:
    """One run, disturbed while kills are left; returns its exit code."""
    run = place.run(*draw.choice(OPTIONS))
    driver = run.pid or 0
    while made.total() < count:
        time.sleep(draw.uniform(0, LONGEST * place.seconds))
        if not run.is_alive():
            break
        workers = workers_of(run)
        victim = "worker" if workers and draw.random() < WORKERS else "driver"
        made[victim] += kill(driver if victim == "driver" else draw.choice(workers))
        if victim == "driver":
            break
    return finish(run)


def _changed(before: dict[str, int], now: dict[str, int]) -> int:
    """Of the cells that were finished, how many are lost or were written again."""
    return sum(now.get(key) != written for key, written in before.items())


def sharing(undisturbed: Place, processes: int) -> Figures:
    """Many runs of the suite at once, with one folder and one empty cache."""
    place = undisturbed.beside("shared")
    notes, cache = place.folder.with_suffix(".notes"), place.folder.with_suffix(".cache")
    before = partial(_note_work, notes, cache)
    runs = [place.run("--jobs", "1", before=before) for _ in range(processes)]
    codes = [*map(finish, runs)]
    lines = [line.split() for line in notes.read_text().splitlines()]
    fits = Counter(cell for what, cell, _ in lines if what == "fit")
    plan = place.plan().frame.set_index("method")
    encoded = sum(int(images) for what, images, _ in lines if what == "encode")
    differ = place.published(undisturbed.folder) != published_once(undisturbed)
    images = _cached_images(cache)
    return {
        "processes": processes,
        "that fitted something": len({pid for what, _, pid in lines if what == "fit"}),
        "that failed": sum(code != 0 for code in codes),
        "cells lost": int((plan["cells"] - plan["done"]).sum()),
        "cells fitted more than once": sum(n > 1 for n in fits.values()),
        "cells never fitted": int(plan.loc[list(TRAINED), "cells"].sum()) - len(fits),
        "images cached": images,
        "images encoded more than once": encoded - images,
        "results that differ": int(differ),
    }


def _note_work(notes: Path, cache: Path) -> None:
    """Lets this process note every fit, and how many images it encodes; lines do not mix."""
    os.environ["COMPATBENCH_CACHE"] = str(cache)
    encode, registry = Backbone.encode_images, builtin_methods()

    def note(what: str, value: object) -> None:
        with notes.open("a") as file:
            file.write(f"{what} {value} {os.getpid()}\n")

    def noted(name: str, fit: Any) -> Any:
        def noted_fit(self: Any, backbone: Any, data: Any, rng: Any) -> Any:
            note("fit", f"{name}-{data.shots}-{rng.initial_seed()}")
            return fit(self, backbone, data, rng)

        return noted_fit

    def noted_encode(self: Backbone, images: Any, *more: Any, **named: Any) -> Any:
        note("encode", len(images))
        return encode(self, images, *more, **named)

    for name in TRAINED:
        method = registry.get(name)
        method.fit = noted(name, method.fit)  # type: ignore[method-assign]
    Backbone.encode_images = noted_encode  # type: ignore[method-assign]


def _cached_images(cache: Path) -> int:
    """Images whose features a cache holds, once for each backbone and view."""
    images = 0
    for path in cache.rglob("*.safetensors"):
        with safe_open(str(path), "pt") as file:
            images += sum(file.get_slice(name).get_shape()[0] for name in file.keys())  # noqa: SIM118
    return images


def disk(undisturbed: Place, steps: int) -> Figures:
    """A run on a small disk (tmpfs), which is full ``steps`` times, each time with more room.

    Without the right to mount one, a limit on the size of files does: what is larger cannot
    be written, which the system tells in the same way.
    """
    place = undisturbed.beside("full")
    place.folder.mkdir()
    mounted = _mount(place.folder, "nr_inodes=0,size=16k")
    stopped, unclear, broken, lost = 0, 0, 0, 0
    finished: dict[str, int] = {}
    try:
        for step in range(steps):
            if mounted:
                _mount(place.folder, f"remount,size={(step + 1) * 64}k")
            limit = 2**12 + step * 2**9
            bound = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
            place.log.unlink(missing_ok=True)
            code = finish(place.run("--jobs", "1", before=None if mounted else bound))
            stopped += code != 0
            unclear += code != 0 and not _is_clear(place.log.read_text())
            broken += len(list(place.folder.rglob("*.tmp")))
            broken += finish(place.start("store", "runs", "verify")) != 0
            now = place.finished()
            lost += _changed(finished, now)
            finished = now
        if mounted:
            _mount(place.folder, f"remount,size={ROOM}")
        code = finish(place.run("--jobs", "1"))
        differ = place.published(undisturbed.folder) != published_once(undisturbed)
    finally:
        if mounted:
            subprocess.run(["umount", str(place.folder)], check=True)
    return {
        "how": "tmpfs" if mounted else "RLIMIT_FSIZE",
        "runs stopped by a full disk": stopped,
        "of these without one clear line": unclear,
        "files half-written": broken,
        "finished cells lost": lost,
        "exit code with room": code,
        "results that differ": int(differ),
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
    clear = lines[-1].startswith(("compatbench: cannot write ", "compatbench: no room for "))
    return "Traceback" not in log and clear
