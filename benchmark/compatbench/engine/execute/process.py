"""The life of a worker process: a cell in, events out, until told to stop."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import re
import signal
import sys
import threading
import time
import warnings
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

from compatbench.engine.execute.attempt import make_worker, run_cell
from compatbench.engine.execute.settings import Settings
from compatbench.engine.failures import LAST_FRAMES
from compatbench.errors import CompatbenchError, CompatbenchWarning

# The signal that makes a worker write down its frames; None where there are no signals.
SHOW_FRAMES = getattr(signal, "SIGUSR1", None)
WRITE_SECONDS = 1.0  # that writing them may take

_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def serve(connection: Connection, settings: Settings, frames: Path) -> None:
    """Runs the cells that come; ends with the parent.

    Args:
        frames: a file for the last frames before a crash or a timeout.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    _end_with_parent()
    with frames.open("w") as file:
        faulthandler.enable(file, all_threads=False)
        if SHOW_FRAMES is not None:
            faulthandler.register(SHOW_FRAMES, file, all_threads=False)
        warnings.showwarning = lambda message, category, *_: (
            connection.send(str(message)) if category is CompatbenchWarning else None
        )
        try:
            worker = make_worker(settings)
            while True:
                try:
                    connection.send(run_cell(worker, connection.recv(), connection.send))
                except CompatbenchError as error:
                    connection.send(error)
        except (EOFError, OSError):
            pass  # the parent is gone; what was measured is in the store


def _end_with_parent() -> None:
    """Ends this process when its parent dies: a cell that hangs would keep its claim forever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    # On Linux, too: the parent may have died before the call of prctl.
    threading.Thread(target=watch, daemon=True).start()


def ask_for_frames(pid: int, frames: Path) -> tuple[str, ...]:
    """The frames that a process is in, innermost last; it may be deep in a library's code."""
    if SHOW_FRAMES is None:
        return ()
    try:
        os.kill(pid, SHOW_FRAMES)
    except ProcessLookupError:
        return read_frames(frames)
    deadline = time.monotonic() + WRITE_SECONDS
    size = 0
    # Until it is written, and no longer grows.
    while time.monotonic() < deadline:
        time.sleep(0.05)
        before, size = size, frames.stat().st_size
        if size and size == before:
            break
    return read_frames(frames)


def read_frames(frames: Path) -> tuple[str, ...]:
    """The last frames that a worker has written down, innermost last."""
    try:
        # The interpreter writes the innermost first.
        found = _FRAME.findall(frames.read_text(errors="replace"))[:LAST_FRAMES]
    except OSError:
        return ()
    return tuple(f"{Path(file).name}:{line} in {name}" for file, line, name in reversed(found))
