"""The command line in this process, and one undisturbed smoke run that many tests look at."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import forget_files

from compatbench.cli import main
from compatbench.data.dataset_folders import set_data_roots
from compatbench.data.feature_cache import FeatureCache
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker

from .running import SMOKE, Run, said

COLUMNS = {"COLUMNS": "100"}


@pytest.fixture(autouse=True, scope="session")
def _heeds_ctrl_c() -> Iterator[None]:
    """What a script starts in its background ignores Ctrl-C, and so would the tests' runs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever looks at the smoke run has to wait for it."""
    for item in items:
        if "smoke" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def worker(cache: Path, tmp_path: Path) -> Worker:
    """A worker with a store of its own, and with the image features of all tests."""
    return Worker(RunStore(tmp_path / "runs"), FeatureCache(cache))


@pytest.fixture(scope="session")
def compatbench() -> Run:
    """Runs the command line in this process, with one worker unless told otherwise."""

    def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "run" and not {"--jobs", "-j", "--executor"} & set(arguments):
            arguments = (*arguments, "--jobs", "1")
        out, errors, code = io.StringIO(), io.StringIO(), 0
        before = dict(os.environ)
        with (
            pytest.MonkeyPatch.context() as patch,
            warnings.catch_warnings(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
        ):
            patch.chdir(cwd)
            patch.setattr(sys, "argv", ["compatbench", *arguments])
            os.environ.update(COLUMNS | environment)
            forget_files()
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            finally:
                # Options set variables for worker processes, and roots for this one.
                os.environ.clear()
                os.environ.update(before)
                set_data_roots([])
                forget_files()
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())

    return run


@pytest.fixture(scope="session")
def smoke(compatbench: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished smoke run of some methods."""
    folder = tmp_path_factory.mktemp("smoke")
    said(compatbench(*SMOKE, cwd=folder))
    return folder
