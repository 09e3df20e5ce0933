"""Plan a run in another process, which may import methods: the one that scores must not.

This module does not import PyTorch. A command starts the other process with it, and then imports
PyTorch itself: both do so at the same time.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, cast

from compatbench.data.declared_transfers import declare_needs
from compatbench.engine.execute.content_process import serve
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files.processes import is_stopped, kill, receive_data, start_process

if TYPE_CHECKING:
    import pandas as pd

    from compatbench.engine.plan import Plan
    from compatbench.engine.request import Request
    from compatbench.engine.stored_rows import RowKey

POLL_SECONDS = 0.1


class Planner:
    """A process that plans a run; it can be handed over to the run's workers.

    The end of its ``with`` block ends the process, unless it was handed over.

    Args:
        threads: of the process.
        timeout: seconds after which it is an error that the system has stopped the process.
    """

    def __init__(self, threads: int = 1, timeout: float | None = None) -> None:
        # As a worker it may start processes that decode images.
        self._process, self._connection = start_process(threads, serve, daemon=False)
        self._is_ours = True
        self._timeout = timeout or float("inf")

    def __enter__(self) -> Planner:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def plan(self, make_request: Callable[[], Request]) -> Plan:
        """Return the plan of a request, which the process makes and checks.

        Raises:
            CompatbenchError: as ``make_request`` and ``make_plan``.
        """
        from compatbench.engine.plan import Plan
        from compatbench.engine.plan_data import read_data

        plan = read_data(Plan, self._ask("request", make_request))
        for label, needs in plan.needs.items():
            declare_needs(label, needs)
        return plan

    def find_outdated_rows(self, stored: Mapping[str, pd.DataFrame]) -> frozenset[RowKey]:
        """Return the stored rows that no longer hold, by the plan that was made."""
        from compatbench.engine.plan_data import read_data
        from compatbench.engine.stored_rows import RowKey

        return read_data(frozenset[RowKey], self._ask("rows", dict(stored)))

    def ask(self, function: Callable[[], Any]) -> Any:
        """Return the JSON values that a function returns in the process.

        Raises:
            CompatbenchError: as the function.
        """
        return self._ask("function", function)

    def hand_over(self) -> tuple[BaseProcess, Connection]:
        """Return the process and its connection, to go on as a worker."""
        self._is_ours = False
        return self._process, self._connection

    def end(self) -> None:
        """End the process, unless it was handed over."""
        if self._is_ours:
            kill(self._process)

    def _ask(self, kind: str, argument: object) -> Any:
        """Send a question, and return the answer."""
        with suppress(OSError):  # the process has died: below, its exit code is reported
            self._connection.send((kind, argument))
        last_running = time.monotonic()
        while True:
            is_alive = self._process.is_alive()  # looked at before its last messages are read
            for answer, value in receive_data(self._connection, POLL_SECONDS):
                if answer == "warning":
                    warnings.warn(value, CompatbenchWarning, stacklevel=2)
                elif answer == "broken":
                    raise CompatbenchError(value)
                else:
                    return value
            if not is_alive:
                code = self._process.exitcode
                raise CompatbenchError(
                    f"the process that imports the methods ended with exit code {code}; what it "
                    "printed may say why, and 'compatbench check' tries each method alone"
                )
            if not is_stopped(cast(int, self._process.pid)):
                last_running = time.monotonic()
            elif time.monotonic() > last_running + self._timeout:
                raise CompatbenchError(
                    "the process that imports the methods was stopped, and did not go on after "
                    f"{self._timeout:g} s; run the same command again"
                )


class PlannerHere:
    """Plans a run in this process, for a debugger; methods are imported here."""

    def __enter__(self) -> PlannerHere:
        return self

    def __exit__(self, *_: object) -> None: ...

    def plan(self, make_request: Callable[[], Request]) -> Plan:
        """Return the plan of a request."""
        from compatbench.engine.plan import make_plan

        self._plan = make_plan(make_request())
        return self._plan

    def find_outdated_rows(self, stored: Mapping[str, pd.DataFrame]) -> frozenset[RowKey]:
        """Return the stored rows that no longer hold, by the plan that was made."""
        from compatbench.engine.stored_rows import find_outdated_rows

        return find_outdated_rows(self._plan, stored)
