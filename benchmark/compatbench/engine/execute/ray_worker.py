"""The life of a worker on Ray: an actor with devices of its own, which streams events back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

import ray

from compatbench.engine.cell import Cell
from compatbench.engine.execute.executors import Event, Settings, make_worker, run_one
from compatbench.engine.execute.ray_nodes import Share, View, find_difference
from compatbench.errors import CompatbenchError, CompatbenchWarning

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
                messages.put(run_one(self._worker, cell, messages.put, wait=False))
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
                isinstance(message, Event) and message.kind in ("waiting", "finished")
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


@dataclass(eq=False)
class RayWorker:
    """An actor, as the driver knows it.

    Attributes:
        starting: becomes the answer of ``CellActor.start``.
        node: the id of the node it runs on; empty until it has started.
        unfit: it can run nothing there, and is kept so that no other takes its place.
        cell: at work, if any.
        messages: of that cell.
        deadline: when that is ended, on the monotonic clock.
    """

    actor: Any
    starting: Any
    node: str = ""
    unfit: bool = False
    cell: Cell | None = None
    messages: Any = None
    deadline: float | None = None

    @property
    def fit(self) -> bool:
        return bool(self.node) and not self.unfit

    @property
    def answer(self) -> Any:
        """What it owes, if anything."""
        return self.messages if self.node else self.starting

    def begin(self, cell: Cell) -> None:
        """Hands it a cell."""
        run = self.actor.run.options(num_returns="streaming")
        self.cell, self.messages = cell, run.remote(cell)


def start_worker(settings: Settings, share: Share, view: View) -> RayWorker:
    """Starts an actor where the cluster has room for it."""
    actor_class: Any = ray.remote(CellActor)
    actor = actor_class.options(
        num_cpus=share.cpus,
        num_gpus=share.gpus,
        max_restarts=0,  # the pool starts another, which may be elsewhere
        scheduling_strategy="SPREAD",
    ).remote(settings)
    return RayWorker(actor, actor.start.remote(view))
