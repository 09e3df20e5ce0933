"""Start the processes in which methods are checked, and collect the outcomes.

This process loads neither PyTorch nor a method: the hosts in ``check_host`` do.
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from unittest.mock import patch

from compatbench.errors import CompatbenchError
from compatbench.extras.check.outcome import RuleOutcome, Selection
from compatbench.files.processes import (
    count_cores,
    end_with_parent,
    kill,
    silence,
    start_process,
)
from compatbench.files.scratch import scratch_folder

SECONDS = 600.0  # that one check may take
# With LC_ALL=C, Python would not start if it is installed in a folder whose name is not ASCII.
ENVIRONMENT_ELSEWHERE = {"PYTHONHASHSEED": "77", "TZ": "UTC-9", "LC_ALL": "", "LANG": "C"}
SHARE = 8  # methods that are worth another host: to start one takes as long as to check some


def run_checks(connection: Connection) -> None:
    """Be a host that checks methods. A second one, which fits them again, loads meanwhile."""
    end_with_parent(leads=True)
    silence(0, 1, 2)
    gc.disable()  # garbage collection takes a fifth of the loading time
    with start_elsewhere() as elsewhere:
        from compatbench.extras.check.check_host import host_checks

        host_checks(connection, elsewhere)


@contextmanager
def start_elsewhere() -> Iterator[Connection]:
    """Start the host of other hashes, another time zone, home and folder; give its connection."""
    with scratch_folder() as folder:
        homes = {"HOME": str(folder), "USERPROFILE": str(folder)}
        with patch.dict(os.environ, ENVIRONMENT_ELSEWHERE | homes):
            host, connection = start_process(1, run_fits, str(folder), daemon=False)
        try:
            yield connection
        finally:
            kill(host)


def run_fits(connection: Connection, folder: str) -> None:
    """Be a host that fits methods, in a folder."""
    end_with_parent(leads=True)
    silence(0, 1, 2)
    gc.disable()
    os.chdir(folder)
    from compatbench.extras.check.check_host import host_fits

    host_fits(connection)


def try_rules(
    methods: str, checks: str | Sequence[str], progress: Callable[[RuleOutcome], object]
) -> tuple[Selection, list[RuleOutcome]]:
    """Try rules on methods. Return what was selected, and the outcomes in the order of the names.

    A process that ends, or takes too long, fails the check that it was at.

    Raises:
        CompatbenchError: the selection is refused.
    """
    host = _start_host()
    try:
        selection = _ask(host, methods, checks)
        names = list(selection.methods)
        count = min(count_cores(), math.ceil(len(names) / SHARE))
        shares = [_Share(names[i::count], selection) for i in range(count)]
    except BaseException:
        kill(host[0])
        raise
    outcomes: list[RuleOutcome] = []
    try:
        shares[0].start(host)
        for share in shares[1:]:
            share.start(_start_host())
        while True:
            busy = [share for share in shares if share.left]
            if not busy:
                break
            ready = wait([share.connection for share in busy], timeout=1)
            for share in busy:
                outcome = share.receive() if share.connection in ready else share.check_clock()
                if outcome is not None:
                    outcomes.append(outcome)
                    progress(outcome)
    finally:
        for share in shares:
            share.end_host()
    return selection, sorted(outcomes, key=lambda outcome: names.index(outcome.method))


Host = tuple[BaseProcess, Connection]


def _start_host() -> Host:
    return start_process(1, run_checks, daemon=False)


def _ask(host: Host, methods: str, checks: str | Sequence[str]) -> Selection:
    """Return what a host selects."""
    process, connection = host
    try:
        connection.send((methods, checks))
        answer = connection.recv()
    except (EOFError, OSError):
        process.join(10)
        raise CompatbenchError(
            f"the process that loads methods has ended with exit code {process.exitcode}; "
            "check one method at a time to find the file that ends it"
        ) from None
    if isinstance(answer, Selection):
        return answer
    raise CompatbenchError(answer)


class _Share:
    """The methods that one host tries, one after the other."""

    def __init__(self, names: Sequence[str], selection: Selection) -> None:
        self.left = list(names)
        self._selection = selection
        self._ahead = list(selection.checks)  # for the first method that is left
        self._host: BaseProcess | None = None

    def start(self, host: Host) -> None:
        """Let a host try the methods that are left."""
        self._host, self.connection = host
        methods = {name: self._selection.methods[name] for name in self.left}
        self.connection.send((methods, list(self._selection.checks)))
        self._last_message = time.monotonic()

    def receive(self) -> RuleOutcome | None:
        """Return the outcome of a check, or that of a process that has ended before its time."""
        assert self._host is not None
        self._last_message = time.monotonic()
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self._host.join(10)
            return self._end_early(f"its process ended with exit code {self._host.exitcode}")
        if isinstance(message, RuleOutcome):
            self._ahead.remove(message.check)
            return message
        return self._end_method(f"its process ended with exit code {message}")

    def check_clock(self) -> RuleOutcome | None:
        """Return the failure of a check that takes too long."""
        if time.monotonic() - self._last_message <= SECONDS:
            return None
        return self._end_early(f"it took longer than {SECONDS:.0f} s")

    def _end_early(self, reason: str) -> RuleOutcome | None:
        """End the host, and go on with the next method in a new one."""
        self.end_host()
        failed = self._end_method(reason)
        if self.left:
            self.start(_start_host())
        return failed

    def _end_method(self, reason: str) -> RuleOutcome | None:
        """Go on with the next method; what was still ahead has failed, the first check by name."""
        name = self.left.pop(0)
        ahead = self._ahead
        self._ahead = list(self._selection.checks)
        if not ahead:
            return None
        rule = self._selection.checks[ahead[0]]
        return RuleOutcome(name, ahead[0], "fail", rule, reason)

    def end_host(self) -> None:
        """End the host and the processes that it has started."""
        if self._host is None:
            return
        if not self.left:
            self._host.join(10)  # it removes what it has written
        kill(self._host)
