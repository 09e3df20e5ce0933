"""Commands that may be stopped at any time."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import typer

STOPPED = 130  # exit code of a command that was stopped, as shells have it


@contextmanager
def stoppable(
    outcome: str = "finished cells are kept, and the same command continues:\n  {command}",
) -> Iterator[None]:
    """End a command with exit code 130 on Ctrl-C, or when a batch system or a terminal ends it.

    Args:
        outcome: a sentence for the user on the finished part of the work.
    """
    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            stop = getattr(signal, name)
            before[stop] = signal.getsignal(stop)
    for stop, handler in before.items():
        if handler != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(stop, _stop)
    try:
        yield
    except KeyboardInterrupt:
        command = shlex.join(["compatbench", *sys.argv[1:]])
        print(f"\ncompatbench: stopped; {outcome.format(command=command)}", file=sys.stderr)
        raise typer.Exit(STOPPED) from None
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)


def _stop(*_: object) -> None:
    """Raise KeyboardInterrupt, as Ctrl-C does; first discard output to a terminal that is gone.

    Writing to such a terminal would fail.
    """
    for stream in (1, 2):
        with suppress(OSError):  # it may be closed
            if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    raise KeyboardInterrupt
