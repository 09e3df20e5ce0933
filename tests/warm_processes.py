"""Processes that start with everything loaded, which saves seconds for each.

They are forked from a server of `multiprocessing` that only loads the program.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any
from unittest import mock

from compatbench.files.processes import inherited
from compatbench.files.project_folders import content_files

LOADED = [
    "compatbench.cli.run",
    "compatbench.engine.execute.on_ray",
    "open_clip",
    "ray",
    "compatbench.extras.check.check_host",
]
# The process that plans a run, and each worker, import them.
for kind in ("methods", "transfers"):
    LOADED += [f"compatbench.{kind}.{path.stem}" for path in content_files(kind)]


class WarmProcess(ForkServerProcess):
    """A process with the environment of its parent instead of the server's."""

    def start(self) -> None:
        with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
            forkserver.set_forkserver_preload(LOADED)
            forkserver.ensure_running()
        self._args = (dict(os.environ), self._target, self._args)  # type: ignore[attr-defined]
        self._target = _with_environment
        super().start()


class WarmContext(ForkServerContext):
    """The context that replaces the one requested by the program."""

    Process = WarmProcess  # type: ignore[assignment]


CONTEXT = WarmContext()
_STARTING = threading.Lock()  # tests start commands in threads, and a start changes the environment


def _with_environment(environment: dict[str, str], target: Any, args: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    target(*args)


def _nothing() -> None: ...


class Command:
    """A command of the program in a separate process and session, with Popen's functions.

    Args:
        before: called in the new process before the command; a function that can be pickled.
    """

    def __init__(
        self,
        words: list[str],
        cwd: Path,
        env: dict[str, str],
        before: Callable[[], object] = _nothing,
    ) -> None:
        handles = [tempfile.mkstemp(prefix="said-") for _ in range(2)]
        for handle, _ in handles:
            os.close(handle)
        self._said = [Path(name) for _, name in handles]
        self._process = CONTEXT.Process(target=_run, args=(words, cwd, env, self._said, before))
        with _STARTING, inherited(1):
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    returncode = property(poll)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("compatbench", timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait until it ends, and return its output on both streams."""
        self.wait(timeout)
        out, errors = self._said
        return out.read_text(), errors.read_text()

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End it, and delete its output."""
        self.kill()
        self._process.join()
        for path in self._said:
            path.unlink()


def _open_stream(number: int) -> io.TextIOWrapper:
    raw = os.fdopen(number, "wb", closefd=False)
    return io.TextIOWrapper(raw, "utf-8", line_buffering=True)


def _run(
    words: list[str],
    cwd: Path,
    env: dict[str, str],
    said: list[Path],
    before: Callable[[], object],
) -> None:
    """Run a command as a shell starts it and as the interpreter ends it."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None
    for stream, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream)
    fork = multiprocessing.get_context("fork")  # its workers are then in its process group
    multiprocessing.get_context = lambda method=None: fork  # type: ignore[assignment]
    before()
    sys.stdout = _open_stream(1)  # after ``before``, which may replace the streams by a terminal
    sys.stderr = _open_stream(2)
    sys.argv = ["compatbench", *words]
    from compatbench.cli import main

    try:
        main()
    finally:
        atexit._run_exitfuncs()
