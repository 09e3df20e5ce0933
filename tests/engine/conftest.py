"""One undisturbed smoke run that the tests of the harness look at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True, scope="session")
def _heeds_ctrl_c() -> Iterator[None]:
    """What a script starts in its background ignores Ctrl-C, and so would the tests' runs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature cache of the tests' own, shared by all of them."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def compatbench(cache: Path) -> Run:
    """Runs the command line as a user does, in a process of its own."""

    def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "compatbench", *arguments],
            cwd=cwd,
            env=os.environ | {"COMPATBENCH_CACHE": str(cache), "COLUMNS": "100"} | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="session")
def smoke(compatbench: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished smoke run of all methods, with two workers."""
    folder = tmp_path_factory.mktemp("smoke")
    result = compatbench("run", "--suite", "smoke", "--jobs", "2", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder
