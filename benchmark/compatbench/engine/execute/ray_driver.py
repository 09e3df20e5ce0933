"""Runs cells on a Ray cluster, which a process of its own is connected to.

Ray ends the process that it runs in when it loses its cluster, or lets it wait without end, and
handles signals in its own way. So that is a child of the run, which is told what happens.

Store and cache are folders, so every node must see them on one file system under one path; and a
cell's key names versions of the code, so every node must run the driver's.
"""

from __future__ import annotations

import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from compatbench.engine.cell import Cell
from compatbench.engine.execute.cell_queue import CellQueue, longest_first
from compatbench.engine.execute.compute import OnEvent, Settings
from compatbench.engine.execute.ray_workers import (
    LOOK_SECONDS,
    Cluster,
    View,
    connect,
    drive,
    identify,
    lost_cluster,
)
from compatbench.engine.execute.scheduler import send_warnings
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files.processes import end_with_parent, kill, silence, start_process
from compatbench.files.scratch import scratch_folder
from compatbench.messages import first_line

LOST_SECONDS = 10.0  # without an answer until it is lost


def run_cells_on_ray(
    cells: Sequence[Cell],
    settings: Settings,
    seconds: Callable[[Cell], float],
    on_start: Callable[[int], object],
    on_event: OnEvent,
) -> None:
    """Runs cells on a cluster; reports events as ``run_cells`` does.

    Only the order depends on the estimated seconds; ``on_start`` is given the number of workers.
    """
    # Workers have current folders of their own.
    store, cache = settings.store.absolute(), settings.cache.absolute()
    settings = replace(settings, store=store, cache=cache)
    estimate = {cell: seconds(cell) for cell in cells}.__getitem__  # which can be pickled
    queue = CellQueue(longest_first(cells, estimate), estimate)
    with scratch_folder(for_sockets=True) as folder, shared_view(settings, cells) as view:
        threads = settings.compute.threads
        process, connection = start_process(threads, _drive, queue, settings, view, folder)
        try:
            _follow(connection, on_start, on_event)
        finally:
            kill(process)  # and all of Ray's that it has started
            connection.close()


def _follow(connection: Connection, on_start: Callable[[int], object], on_event: OnEvent) -> None:
    """Reports what the driver's process sends, and looks after the cluster, until all is done."""
    servers: dict[str, str] = {}
    answered: dict[str, float] = {}
    next_look = 0.0
    while True:
        if connection.poll(LOOK_SECONDS):
            try:
                message = connection.recv()
            except (EOFError, OSError):
                message = lost_cluster("Ray has ended its process")
            if message is None:
                return
            if isinstance(message, CompatbenchError):
                raise message
            if isinstance(message, str):
                warnings.warn(message, CompatbenchWarning, stacklevel=2)
            elif isinstance(message, Cluster):
                servers = message.servers
                on_start(message.workers)
            else:
                on_event(message)
        if (now := time.monotonic()) < next_look:
            continue
        for name, place in servers.items():
            try:
                connect(place)
                answered[name] = now
            except OSError:
                if now - answered.setdefault(name, now) > LOST_SECONDS:
                    raise lost_cluster(f"{name} at {place} does not answer") from None
        next_look = now + LOOK_SECONDS


def _drive(connection: Connection, *task: Any) -> None:
    """The life of the driver's process: messages out, None last."""
    end_with_parent(leads=True)
    silence(1, 2)  # Ray writes pages when it loses a cluster
    warnings.simplefilter("always", CompatbenchWarning)
    send_warnings(connection.send)
    last: CompatbenchError | None = None
    try:
        drive(connection.send, *task)
    except CompatbenchError as error:
        last = error
    except Exception as error:
        last = lost_cluster(first_line(error).rstrip("."))
    connection.send(last)


@contextmanager
def shared_view(settings: Settings, cells: Sequence[Cell]) -> Iterator[View]:
    """Puts a token into store and cache for the time of a run, and describes the driver's code."""
    # The name is that of an unfinished file, as which it is cleaned up if it is left over.
    name = f".shared.{secrets.token_hex(6)}.tmp"
    tokens = [folder / name for folder in (settings.store, settings.cache)]
    methods = list({(cell.method, cell.plugin) for cell in cells})
    try:
        for path in tokens:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        yield View(tokens, methods, identify(methods), Path.cwd())
    finally:
        for path in tokens:
            with suppress(OSError):
                path.unlink()
