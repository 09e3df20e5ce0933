"""Runs that are killed at random moments, share a folder, or may write no more.

Each ends with the results of a run that nothing disturbed. How often it was disturbed is printed
(``pytest -s``).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command_line import output_of
from safetensors import safe_open
from warm_processes import Command

from compatbench.backbone import Backbone
from compatbench.method.registry import builtin_methods

from .running import write_suite

FITTED = ("gda", "tip_adapter", "taskres", "simpleshot")
METHODS = ",".join(("zeroshot", *FITTED))
BACKBONES = {"mini-clip", "mini-eva-clip"}
SEEDS = [1, 2]
KILLS = 10
CROWD = 4  # runs that share a folder
LIMITS = (2**12, 2**13, 2**14, 2**16)  # of the size of a file that a run may write, in bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("suite"), "broken", seeds=SEEDS)


def words_of(suite: Path, out: Path, *options: str) -> list[str]:
    """Return the command of a run of the suite in a folder."""
    return ["run", "--suite", str(suite), "--methods", METHODS, "--out", str(out), *options]


@pytest.fixture
def start(suite: Path) -> Iterator[Callable[..., Command]]:
    """Start runs as processes of their own, and end what is left of them after the test."""
    runs: list[Command] = []

    def start(out: Path, *options: str, before: Callable[[], object] | None = None) -> Command:
        out.mkdir(exist_ok=True)
        first = [before] if before else []
        run = Command(words_of(suite, out, *options), out, dict(os.environ), *first)
        runs.append(run)
        return run

    yield start
    for run in runs:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.close()


@pytest.fixture(scope="module")
def undisturbed(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A folder of the suite's results, and the seconds that the run took."""
    out = tmp_path_factory.mktemp("undisturbed")
    begin = time.monotonic()
    output_of(*words_of(suite, out, "--jobs", "1"))
    return out, time.monotonic() - begin


def published(out: Path) -> dict[str, bytes]:
    """Return the files of results by path, without times and the pages that show them."""
    files = {}
    for path in sorted((out / "results").rglob("*")):
        if path.is_file() and path.name != "costs.csv" and path.suffix != ".md":
            files[str(path.relative_to(out))] = path.read_bytes()
    return files


def finished(out: Path) -> dict[str, int]:
    """Return the time at which the record of each finished cell was written, by its key."""
    times = {}
    for path in (out / "runs" / "cells").rglob("*.json"):
        record = json.loads(path.read_text())
        measured = {row["backbone"] for row in record["records"] if row["status"] == "ok"}
        if measured == BACKBONES:
            times[path.stem] = path.stat().st_mtime_ns
    return times


def expect_kept(before: dict[str, int], out: Path) -> dict[str, int]:
    """Return the finished cells; none that was finished before is lost or written again."""
    now = finished(out)
    assert {key: now.get(key) for key in before} == before
    return now


def kill(pid: int) -> bool:
    """Kill a process without warning, and return True if it was there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def workers_of(run: Command) -> list[int]:
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text()
        return [int(pid) for pid in children.split()]
    return []


@pytest.mark.slow
def test_runs_that_are_killed_at_random_moments_lose_and_repeat_nothing(
    undisturbed: tuple[Path, float], start: Callable[..., Command], tmp_path: Path
) -> None:
    """Kill drivers and workers until a run ends well; start again in a new folder."""
    whole, seconds = undisturbed
    draw = random.Random(1)
    kills = Counter[str]()
    runs = rounds = 0
    while kills.total() < KILLS:
        out = tmp_path / str(rounds)
        rounds += 1
        done: dict[str, int] = {}
        code = -1
        while code != 0:
            run = start(out, "--jobs", draw.choice("12"))
            runs += 1
            while kills.total() < KILLS and run.poll() is None:
                time.sleep(draw.uniform(0, seconds / 4))
                workers = workers_of(run)
                if workers and draw.random() < 0.7:
                    kills["workers"] += kill(draw.choice(workers))
                elif draw.random() < 0.3:
                    kills["drivers"] += kill(run.pid)
                    break
            code = run.wait(240)
            done = expect_kept(done, out)
        assert published(out) == published(whole)
    print(f"{kills.total()} kills ({dict(kills)}) in {runs} runs, {rounds} rounds")


def note_work(notes: Path) -> None:
    """Note every fit of this process, and the number of images that it encodes, a line each."""

    def note(what: str, value: object) -> None:
        with notes.open("a") as file:
            file.write(f"{what} {value}\n")

    def noted(name: str, fit: Any) -> Any:
        def noted_fit(self: Any, backbone: Any, data: Any, rng: Any) -> Any:
            note("fit", f"{name}-{rng.initial_seed()}")
            return fit(self, backbone, data, rng)

        return noted_fit

    encode = Backbone.encode_images

    def noted_encode(self: Backbone, images: Any, *more: Any, **named: Any) -> Any:
        note("encode", len(images))
        return encode(self, images, *more, **named)

    for name in FITTED:
        method = builtin_methods().get(name)
        method.fit = noted(name, method.fit)  # type: ignore[method-assign]
    Backbone.encode_images = noted_encode  # type: ignore[method-assign]


def count_cached_images(cache: Path) -> int:
    """Return the number of images whose features a cache has, once for each backbone and view."""
    images = 0
    for path in cache.rglob("*.safetensors"):
        with safe_open(str(path), "pt") as file:
            for name in file.keys():  # noqa: SIM118
                images += file.get_slice(name).get_shape()[0]
    return images


@pytest.mark.slow
def test_runs_that_share_a_folder_and_an_empty_cache_do_everything_once(
    undisturbed: tuple[Path, float],
    start: Callable[..., Command],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes = tmp_path / "notes"
    monkeypatch.setenv("COMPATBENCH_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "shared"
    before = partial(note_work, notes)
    runs = [start(out, "--jobs", "1", before=before) for _ in range(CROWD)]
    for run in runs:
        assert run.wait(240) == 0, run.communicate()
    lines = [line.split() for line in notes.read_text().splitlines()]
    fits = Counter(value for what, value in lines if what == "fit")
    encoded = sum(int(value) for what, value in lines if what == "encode")
    assert len(fits) == len(FITTED) * len(SEEDS)
    assert set(fits.values()) == {1}
    assert encoded == count_cached_images(tmp_path / "cache")
    assert published(out) == published(undisturbed[0])
    print(f"{CROWD} runs fitted {len(fits)} cells and encoded {encoded} images, each once")


@pytest.mark.slow
def test_a_run_without_room_stops_and_resumes_with_more_room(
    undisturbed: tuple[Path, float], start: Callable[..., Command], tmp_path: Path
) -> None:
    """A limit on the size of files, which the system reports as it does a full disk."""
    done: dict[str, int] = {}
    stopped = 0
    for limit in LIMITS:
        bound = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
        run = start(tmp_path, "--jobs", "1", before=bound)
        if run.wait(240) != 0:
            stopped += 1
            _, errors = run.communicate()
            lines = errors.strip().splitlines()
            assert lines[-1].startswith(("compatbench: cannot write ", "compatbench: no room for "))
            assert "Traceback" not in errors
        assert [*tmp_path.rglob("*.tmp")] == []
        done = expect_kept(done, tmp_path)
    assert stopped
    assert start(tmp_path, "--jobs", "1").wait(240) == 0
    expect_kept(done, tmp_path)
    assert published(tmp_path) == published(undisturbed[0])
    print(f"{stopped} of {len(LIMITS)} runs were stopped")
