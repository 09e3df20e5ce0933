"""Try rules in processes: a fresh one for every method, so that none sees what another left.

A *host* is an interpreter that has loaded everything. It forks a process for each method; where the
system cannot fork safely, each starts anew. A second host, with other hashes, another time zone,
home and folder, does the same for the rule that compares a fit with that of another process.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

from compatbench.extras.check.method_under_test import Elsewhere, MethodUnderTest
from compatbench.extras.check.models import synthetic_models
from compatbench.extras.check.outcome import BrokenRule, RuleOutcome
from compatbench.extras.check.rules import describe_rule, try_rule
from compatbench.files.processes import count_cores, end_with_parent, kill, silence, start_process
from compatbench.files.scratch import scratch_folder
from compatbench.method.identity import plugin_file
from compatbench.method.mistakes import explain
from compatbench.method.registry import builtin_methods

SECONDS = 600.0  # that one check may take
SHARE = 8  # methods that are worth another host: to start one takes as long as to check some
# With LC_ALL=C, Python would not start if it is installed in a folder whose name is not ASCII.
ENVIRONMENT_ELSEWHERE = {"PYTHONHASHSEED": "77", "TZ": "UTC-9", "LC_ALL": "", "LANG": "C"}
Named = tuple[str, str | None]  # a method's name, and its file if it is not found by its name


def try_rules(
    names: Sequence[str], checks: Sequence[str], progress: Callable[[RuleOutcome], object]
) -> list[RuleOutcome]:
    """Try rules on methods, and return the outcomes in the order of the names.

    A process that ends, or takes too long, fails the check that it was at.
    """
    outcomes: list[RuleOutcome] = []
    count = min(count_cores(), math.ceil(len(names) / SHARE))
    shares = [_Share(names[i::count], checks) for i in range(count)]
    try:
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
    return sorted(outcomes, key=lambda outcome: names.index(outcome.method))


class _Share:
    """The methods that one host tries, one after the other."""

    def __init__(self, names: Sequence[str], checks: Sequence[str]) -> None:
        self._checks = checks
        self.left = list(names)
        self._start_host()

    def _start_host(self) -> None:
        methods = [(name, plugin_file(builtin_methods().get(name))) for name in self.left]
        self._host, self.connection = start_process(
            1, host_checks, methods, self._checks, daemon=False
        )
        self._ahead = list(self._checks)  # for the first method that is left
        self._last_message = time.monotonic()

    def receive(self) -> RuleOutcome | None:
        """Return the outcome of a check, or that of a process that has ended before its time."""
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
            self._start_host()
        return failed

    def _end_method(self, reason: str) -> RuleOutcome | None:
        """Go on with the next method; what was still ahead has failed, the first check by name."""
        name = self.left.pop(0)
        ahead = self._ahead
        self._ahead = list(self._checks)
        if not ahead:
            return None
        return RuleOutcome(name, ahead[0], "fail", describe_rule(ahead[0]), reason)

    def end_host(self) -> None:
        """End the host and the processes that it has started."""
        if not self.left:
            self._host.join(10)  # it removes what it has written
        kill(self._host)


def host_checks(connection: Connection, methods: Sequence[Named], checks: Sequence[str]) -> None:
    """Check each method in a process of its own, and send its outcomes and its exit code."""
    end_with_parent(leads=True)
    silence(0, 1, 2)
    with start_elsewhere() as elsewhere:
        load_everything()
        for name, file in methods:
            process = _start(_check_method, connection, elsewhere, name, file, checks)
            process.join()
            connection.send(process.exitcode)


def _check_method(
    connection: Connection,
    elsewhere: Connection,
    name: str,
    file: str | None,
    checks: Sequence[str],
) -> None:
    tested = load_method(name, file, lambda method: ask_elsewhere(elsewhere, method, file))
    for check in checks:
        connection.send(try_rule(check, tested))


@contextmanager
def start_elsewhere() -> Iterator[Connection]:
    """Start the host of other hashes, another time zone, home and folder; give its connection."""
    with scratch_folder() as folder:
        homes = {"HOME": str(folder), "USERPROFILE": str(folder)}
        with patch.dict(os.environ, ENVIRONMENT_ELSEWHERE | homes):
            host, connection = start_process(1, host_fits, str(folder), daemon=False)
        try:
            yield connection
        finally:
            kill(host)


def ask_elsewhere(connection: Connection, name: str, file: str | None = None) -> dict[str, str]:
    """Return what a fit of a method gives elsewhere, as ``MethodUnderTest.describe_fit`` has it."""
    try:
        connection.send((name, file))
        described = connection.recv()
    except (EOFError, OSError):
        raise BrokenRule("the other process has ended") from None
    if isinstance(described, str):
        raise BrokenRule(described)
    return described


def host_fits(connection: Connection, folder: str) -> None:
    """Describe a fit of every method that is asked for, each in a process of its own."""
    end_with_parent(leads=True)
    silence(0, 1, 2)
    os.chdir(folder)
    load_everything()
    while True:
        try:
            name, file = connection.recv()
        except EOFError:
            return
        ours, theirs = Pipe()
        process = _start(_describe_fit, theirs, name, file)
        theirs.close()
        try:
            described = ours.recv()
        except EOFError:
            process.join()
            described = f"a new process ended with exit code {process.exitcode}"
        process.join()
        connection.send(described)


def _describe_fit(connection: Connection, name: str, file: str | None) -> None:
    try:
        connection.send(load_method(name, file).describe_fit())
    except BaseException as error:
        connection.send(explain(error))


def load_everything() -> None:
    """Load what every check needs, before processes are forked."""
    builtin_methods()
    synthetic_models()


def load_method(
    name: str, file: str | None, describe_elsewhere: Elsewhere | None = None
) -> MethodUnderTest:
    """Return the method of this name, from its file if it has one."""
    if file is not None:
        builtin_methods().add_file(Path(file))
    return MethodUnderTest(builtin_methods().get(name), describe_elsewhere)


def _start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a process, forked where that is safe after PyTorch was loaded."""
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    process = context.Process(target=target, args=arguments)
    process.start()
    return process
