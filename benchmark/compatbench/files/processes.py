"""Processes of our own: started without the caller's main module, and ended with their parent."""

from __future__ import annotations

import ctypes
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

KILL_SECONDS = 10.0  # that a process may take to end when it is killed

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container (control groups, version 2)
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def count_cores() -> int:
    """The cores that this process may use, by its affinity and by its container's quota."""
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
    """Starts ``target(connection, *args)`` in a process; returns it, and its connection's end.

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


def receive(connection: Connection, seconds: float = 0.0) -> list[Any]:
    """Return the messages that have come from a process, after waiting for the first."""
    messages = []
    try:
        while connection.poll(0.0 if messages else seconds):
            messages.append(connection.recv())
    except (EOFError, OSError):
        pass  # the process has ended
    return messages


@contextmanager
def inherited(threads: int) -> Iterator[None]:
    """Starts children with a number of threads, deaf to Ctrl-C, without the caller's main module.

    BLAS reads its thread count when it is loaded, before any of our code runs. A terminal sends
    Ctrl-C to all processes, and the parent decides: children inherit the mask of signals. A
    script as main module would run again in every worker, and one from a pipe has no file.
    """
    main, before = sys.modules["__main__"], os.environ.get("OMP_NUM_THREADS")
    has_masks = hasattr(signal, "pthread_sigmask")
    mask: set[int] = set()
    if has_masks:
        # The first start would start it, too, and that ends with an empty mask.
        resource_tracker.ensure_running()
        mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
        if has_masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def kill(process: BaseProcess) -> None:
    """Kills a process, with those that it has started if it leads a group."""
    with suppress(AttributeError, ProcessLookupError):  # where there are no groups; it leads none
        os.killpg(cast(int, process.pid), signal.SIGKILL)
    process.kill()
    process.join(KILL_SECONDS)


def end_with_parent(*, leads: bool = False) -> None:
    """Ends this process when its parent dies: a cell that hangs would keep its claim forever.

    Args:
        leads: makes it lead a group, of those that it starts, which end with it.
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

    # On Linux, too: the parent may have died before the call of prctl.
    threading.Thread(target=watch, daemon=True).start()


def silence(*streams: int) -> None:
    """What is written to these streams (1, 2), or read from them (0), goes nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in streams:
        os.dup2(nowhere, stream)
    if nowhere not in streams:  # as it is, where one of them was closed
        os.close(nowhere)
