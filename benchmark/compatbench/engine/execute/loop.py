"""What a worker does: it claims the cell that it is given, runs it, and records the result.

A claim is a lock that the system releases when the process ends, so any number of runs, on any
machines that see one folder, may share it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from compatbench.engine.cell import Cell
from compatbench.engine.compute import Compute
from compatbench.engine.worker import Worker
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.messages import first_line


@dataclass(frozen=True)
class Job:
    """The cells of a run in order, its folders, and how it computes."""

    cells: Sequence[Cell]
    store: Path
    cache: Path
    compute: Compute = field(default_factory=Compute)


class Order(NamedTuple):
    """A cell for a worker.

    Attributes:
        not_before: when to give it to a worker, by ``time.monotonic``.
        was_held: another run had it, so a failure that is recorded by now is its result.
        error: a failure to record instead of running the cell: workers have died of it.
    """

    cell: Cell
    not_before: float = 0.0
    was_held: bool = False
    error: str = ""


# Tells the kind of a message and its value. The kinds are ``ready`` (for an order), ``held``
# (another run has claimed the cell), ``started``, ``loaded`` (weights are in memory), ``encoding``
# (images done, and in all), ``measured`` (one more place), ``ended`` (the error, empty if there is
# none), ``died`` (the error), ``warning`` (its text) and ``broken`` (what is wrong with the user's
# input or folders; it ends the run).
Tell = Callable[[str, Any], object]


def run_cell(worker: Worker, order: Order, tell: Tell) -> None:
    """Run a cell unless another run holds it, tell how it ended, and be ready for another."""
    store = worker.store
    with store.claim(order.cell.key) as claimed:
        kind, error = ("ended", _run_claimed(worker, order, tell)) if claimed else ("held", "")
    tell(kind, error)
    tell("ready", None)


def _run_claimed(worker: Worker, order: Order, tell: Tell) -> str:
    cell, store = order.cell, worker.store
    record = store.read(cell.key)
    failed_elsewhere = order.was_held and record is not None and record.errors
    if order.error:
        record = store.write_failure(cell, order.error)
    elif record is None or not (store.is_done(cell, record) or failed_elsewhere):
        tell("started", None)
        worker.on_loaded = lambda: tell("loaded", None)
        worker.cache.on_encoded = lambda *images: tell("encoding", images)
        record = worker.run(cell, lambda _: tell("measured", None))
    if record.errors:
        return record.errors[0]
    # Whoever still gets the lock of the removed file reads the record first.
    store.claim_path(cell.key).unlink(missing_ok=True)
    return ""


@contextmanager
def told(tell: Tell) -> Iterator[None]:
    """Tell what is wrong with the user's input or folders, and the project's own warnings."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if category is CompatbenchWarning:
            tell("warning", str(message))

    warnings.showwarning = show
    try:
        yield
    except CompatbenchError as error:
        tell("broken", str(error))
    except OSError as error:
        tell("broken", first_line(error))
