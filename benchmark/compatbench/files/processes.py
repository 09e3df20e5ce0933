"""Worker processes: started without the caller's main module, and ended with their parent."""

from __future__ import annotations

import ctypes
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from compatbench.errors import CompatbenchError

KILL_SECONDS = 10.0  # that a process may take to end when it is killed

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container (control groups, version 2)
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def count_cores() -> int:
    """Return the number of cores that this process may use, by affinity and container quota."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # no such file, or "max"
        quota, period = map(int, _QUOTA.read_text().split())
        cores = min(cores, math.ceil(quota / period))
    return cores


def start_process(
    threads: int, target: Callable[..., None], *args: Any, daemon: bool = True
) -> tuple[BaseProcess, Connection]:
    """Start ``target(connection, *args)`` in a process. Return it with our end of the connection.

    A daemon cannot start processes itself.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=target, args=(theirs, *args), daemon=daemon, name="compatbench-worker"
    )
    with inherited(threads):
        process.start()
    theirs.close()
    return process, ours


def send_data(connection: Connection, message: tuple[str, Any]) -> None:
    """Send a message of JSON values to a process that reads it with ``receive_data``."""
    connection.send_bytes(json.dumps(message).encode())


def receive_data(connection: Connection, seconds: float = 0.0) -> list[tuple[str, Any]]:
    """Return the messages of a process, after waiting at most ``seconds`` for the first one.

    The process may run code from outside, so they are JSON. A pickle could run code here.

    Raises:
        CompatbenchError: the process has sent anything else.
    """
    messages = []
    with suppress(EOFError, OSError):  # the process has ended
        while connection.poll(0.0 if messages else seconds):
            content = connection.recv_bytes()
            try:
                kind, value = json.loads(content)
            # Values that are no pair raise the last two, and too many levels the first.
            except (RecursionError, TypeError, ValueError):
                raise CompatbenchError(
                    "a method has changed what its process sends; nothing of it was used"
                ) from None
            messages.append((kind, value))
    return messages


@contextmanager
def inherited(threads: int) -> Iterator[None]:
    """Give processes that the block starts what they need to inherit, and undo it afterwards.

    They get a number of threads: BLAS reads it when it is loaded, before any of our code runs.
    They ignore Ctrl-C, which a terminal sends to all processes: the parent decides what to do.
    They do not run the caller's main module again.
    """
    main_module = sys.modules["__main__"]
    threads_before = os.environ.get("OMP_NUM_THREADS")
    has_masks = hasattr(signal, "pthread_sigmask")
    mask: set[int] = set()
    if has_masks:
        # The first start of a process would start the tracker too, and leave an empty mask behind.
        resource_tracker.ensure_running()
        mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    # Why swap ``__main__``? Both "spawn" and "forkserver" run the script in it again in each child,
    # with no option to leave that out; a script without a guard would start itself without end, and
    # one from a pipe has no file. "fork" hangs once torch has started threads. Our own sub-process
    # (python -m) would need its own handles, exit codes and sentinels on every system, and could
    # not serve torch's DataLoader, which starts its processes itself (data/encoding.py).
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main_module
        del os.environ["OMP_NUM_THREADS"]
        if threads_before is not None:
            os.environ["OMP_NUM_THREADS"] = threads_before
        if has_masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def is_stopped(child: int) -> bool:
    """Return True if the system has stopped a child process, as by SIGSTOP, and it still is."""
    if not hasattr(os, "waitid"):  # Windows stops no processes
        return False
    # Without WNOWAIT, the system would report this state only once.
    options = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
    try:
        return os.waitid(os.P_PID, child, options) is not None
    except ChildProcessError:  # it has ended
        return False


def kill(process: BaseProcess) -> None:
    """Kill a process. If it leads a group, kill the processes that it has started too."""
    with suppress(AttributeError, ProcessLookupError):  # no groups on this system, or no leader
        os.killpg(cast(int, process.pid), signal.SIGKILL)
    process.kill()
    process.join(KILL_SECONDS)


def end_with_parent(*, leads: bool = False) -> None:
    """End this process when its parent dies: a cell that hangs would keep its claim forever.

    Args:
        leads: make this process lead a group of the processes that it starts; they end with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    leads = leads and hasattr(os, "setsid")
    if leads:
        os.setsid()
    elif sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        if leads:
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    # This is needed on Linux too: the parent may have died before the call of prctl.
    threading.Thread(target=watch, daemon=True).start()


def silence(*streams: int) -> None:
    """Discard what is written to these streams (1, 2), and let reading (0) find nothing."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in streams:
        os.dup2(nowhere, stream)
    if nowhere not in streams:  # it is one of them if that stream was closed before
        os.close(nowhere)
