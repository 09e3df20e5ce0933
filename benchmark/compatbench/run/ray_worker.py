"""The life of a worker on Ray: an actor with devices of its own, which streams events back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

import ray

from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.run.cell import Cell
from compatbench.run.executors import Event, Settings, make_worker, run_one
from compatbench.run.ray_nodes import View, find_difference

# An event, a warning to pass on, or the user's mistake.
Message = Event | str | CompatbenchError


class CellActor:
    """Runs cells one after the other, keeping backbones and features at hand between them.

    Ray starts it in a process of its own, in which only the devices that it was given can be
    seen, and gives them to others once that process is gone.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def start(self, view: View) -> tuple[str, str]:
        """Gets ready.

        Returns:
            The id of the node that this actor runs on, and why it can run no cell there: empty
            if it can.
        """
        node = ray.get_runtime_context().get_node_id()
        with suppress(OSError):
            os.chdir(view.folder)  # as processes do that the driver starts itself
        return node, find_difference(view) or self._prepare()

    def run(self, cell: Cell) -> Iterator[Message]:
        """Runs a cell, telling what happens as it happens; the last event is the end of it."""
        messages: SimpleQueue[Message | BaseException] = SimpleQueue()
        warnings.showwarning = lambda message, category, *_: (
            messages.put(str(message)) if category is CompatbenchWarning else None
        )

        def work() -> None:
            try:
                messages.put(run_one(self._worker, cell, messages.put))
            except BaseException as error:
                messages.put(error)

        thread = Thread(target=work, daemon=True)
        thread.start()
        while True:
            message = messages.get()
            if isinstance(message, BaseException) and not isinstance(message, CompatbenchError):
                raise message
            yield message
            if isinstance(message, CompatbenchError) or (
                isinstance(message, Event) and message.kind == "finished"
            ):
                thread.join()
                return

    def _prepare(self) -> str:
        import torch

        try:
            torch.empty(0, device=self._settings.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            return f"cannot use device '{self._settings.device}': {reason}"
        self._worker = make_worker(self._settings)
        return ""
