"""Ctrl-C, and the end that a batch system asks for: a run stops, and says how to continue."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer

STOPPED = 130  # exit code of a command that was stopped, as shells have it


@contextmanager
def stoppable() -> Iterator[None]:
    """Ends a command cleanly when it is interrupted or told to terminate.

    Raises:
        typer.Exit: with 130, if so.
    """
    main = threading.current_thread() is threading.main_thread()
    # As Ctrl-C: the handler raises KeyboardInterrupt.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if main else None
    try:
        yield
    except KeyboardInterrupt:
        command = shlex.join(["compatbench", *sys.argv[1:]])
        print(
            "\ncompatbench: stopped; finished cells are kept, and the same command continues:\n"
            f"  {command}",
            file=sys.stderr,
        )
        raise typer.Exit(STOPPED) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
