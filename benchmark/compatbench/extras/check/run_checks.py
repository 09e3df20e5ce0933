"""Runs the checks of methods, in processes of their own."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Sequence
from itertools import product
from multiprocessing.connection import Connection, wait

import pandas as pd
import pytest

from compatbench.data.cards import select_names
from compatbench.errors import CompatbenchError
from compatbench.extras.check import plugin
from compatbench.extras.check.models import synthetic_models
from compatbench.extras.check.rules import Outcome, Status, check_name, find_checks, find_rule
from compatbench.files.processes import count_cores, end_with_parent, kill, silence, start_process
from compatbench.messages import one_line
from compatbench.method.mistakes import explain
from compatbench.method.refusals import forget_refusal, remember_refusal
from compatbench.method.registry import builtin_methods

SECONDS = 600.0  # that one check may take
SHARE = 8  # methods that are worth another process: to start it takes as long as to check some
OnOutcome = Callable[[Outcome], object]
# Nothing of the user's: no settings, plug-ins, cache or conftest.py.
ALONE = ("-c", os.devnull, "--noconftest", "-p", "no:cacheprovider")


def check_methods(
    methods: str | Sequence[str] = "all",
    only: str | Sequence[str] = "all",
    *,
    progress: OnOutcome = lambda _: None,
) -> pd.DataFrame:
    """Checks that methods keep the rules, by name, on small random models.

    The rules make results comparable: a fit is decided by its data and its seed alone, nothing but
    the module is carried over, and it acts where the card says. Every method is fitted and attached
    in another process, with a few optimiser steps, which takes seconds on one core; no data set and
    no weights are needed. A check that fails says what is wrong and, of an error, in which line.
    Try it alone with ``only``. What a method cannot keep by its nature its card excuses, with the
    reason: ``excused={"class-order": "its classes have an order"}``. A method from outside that
    fails is measured by ``run``, but not ranked.

    Args:
        methods: names, globs, ``all``, exclusions (``!coop``), or the path of a method file,
            which is run as code.
        only: names, globs or exclusions of checks.
        progress: called with each outcome as soon as it is known; several methods are tried at a
            time.

    Returns:
        One row for each method and check, with the columns ``method``, ``check``, ``status``
        (``pass``, ``fail`` or ``skip``), ``rule``, ``reason`` and ``seconds``. With ``all``
        methods, a file that cannot be loaded has a row that fails the check ``load``.

    Raises:
        CompatbenchError: an unknown method or check, a named file that cannot be loaded, or an
            empty selection.
    """
    registry, every = builtin_methods(), find_checks()
    names = registry.select(methods if isinstance(methods, str) else ",".join(methods))
    checks = select_names(only, list(every), "check")
    for what, asked, selected in (("method", methods, names), ("check", only, checks)):
        if not selected:
            raise CompatbenchError(f"'{asked}' leaves no {what}")
    outcomes = run_checks(names, checks, progress)
    for name in dict.fromkeys(outcome.method for outcome in outcomes):
        tried = [outcome for outcome in outcomes if outcome.method == name]
        failed = next((outcome for outcome in tried if outcome.status == "fail"), None)
        identity, _ = registry.identify(name)
        # Those of the repository are checked by its tests.
        if ":" in identity and failed is not None:
            remember_refusal(identity, f"check '{failed.check}': {failed.reason}")
        elif ":" in identity and len(tried) == len(every):
            forget_refusal(identity)
    if methods == "all":
        for name, why in registry.broken.items():
            outcomes.append(Outcome(name, "load", "fail", "the file can be loaded", why))
    return pd.DataFrame(outcomes)


def run_checks(
    names: Sequence[str],
    checks: Sequence[str],
    progress: OnOutcome = lambda _: None,
) -> list[Outcome]:
    """Runs checks on methods of these names, in at most a process per core.

    A process that ends, or takes too long, fails the check that it was at; the other methods are
    tried in a new one.
    """
    count, outcomes = min(count_cores(), math.ceil(len(names) / SHARE)), list[Outcome]()
    shares = [_Share([*product(names[i::count], checks)]) for i in range(count)]
    try:
        while waiting := {share.connection: share for share in shares if share.left}:
            ready = wait([*waiting], timeout=1)
            for connection, share in waiting.items():
                if connection in ready:
                    outcomes.append(share.receive())
                elif time.monotonic() - share.heard > SECONDS:
                    outcomes.append(share.fail(f"it took longer than {SECONDS:.0f} s"))
                else:
                    continue
                progress(outcomes[-1])
        for share in shares:
            share.process.join(10)  # while it removes what it has written
    finally:
        for share in shares:
            kill(share.process)
    return sorted(outcomes, key=lambda outcome: names.index(outcome.method))


class _Share:
    """Tries, of a name and a check each, that a process does one after the other."""

    def __init__(self, tries: list[tuple[str, str]]) -> None:
        self.left = tries
        self._start()

    def _start(self) -> None:
        names, checks = ([*dict.fromkeys(column)] for column in zip(*self.left, strict=True))
        work = names, checks, plugin.outside_files()
        self.process, self.connection = start_process(1, run_tests, *work, daemon=False)
        self.heard = time.monotonic()

    def receive(self) -> Outcome:
        """The outcome that the process has sent, or that of its end."""
        try:
            outcome: Outcome = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(10)
            return self.fail(f"its process ended with exit code {self.process.exitcode}")
        self.heard = time.monotonic()
        self.left.remove((outcome.method, outcome.check))
        return outcome

    def fail(self, reason: str) -> Outcome:
        """Fails the check that is being tried, and goes on with the next method."""
        kill(self.process)
        name, check = self.left[0]
        self.left = [each for each in self.left if each[0] != name]
        if self.left:
            self._start()
        return Outcome(name, check, "fail", find_rule(check), reason)


def run_tests(
    connection: Connection, names: list[str], checks: list[str], files: list[str]
) -> None:
    """Runs checks with pytest in this process, and sends their outcomes."""
    end_with_parent(leads=True)
    silence(0, 1, 2)
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    plugin.load_files(files)
    synthetic_models()  # before the clock of the first check runs
    codes = [find_checks()[check].__code__ for check in checks]
    tests = [f"{code.co_filename}::{code.co_name}" for code in codes]
    # Folders above are no packages of tests: pytest would put what holds them on the path.
    here = os.path.dirname(plugin.__file__)
    options = [*ALONE, "--rootdir", here, "--confcutdir", here, "--checked", ",".join(names)]
    pytest.main([*options, *tests], plugins=[plugin, _Reporter(connection)])


class _Reporter:
    """Sends the outcome of every check."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._seconds = connection, 0.0
        self._verdict: tuple[Status, str] = ("pass", "")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "setup":
            self._seconds = 0.0
        self._seconds += call.duration
        if call.when == "call" or not report.passed:
            self._verdict = _judge(report, call)
        if call.when == "teardown":
            check = check_name(item.originalname)  # type: ignore[attr-defined]
            [name] = item.callspec.params.values()  # type: ignore[attr-defined]
            (status, reason), rule = self._verdict, find_rule(check)
            outcome = Outcome(name, check, status, rule, one_line(reason, 600), self._seconds)
            self._connection.send(outcome)
        return report


def _judge(report: pytest.TestReport, call: pytest.CallInfo[None]) -> tuple[Status, str]:
    """What a report says, and why."""
    if report.passed:
        return "pass", str(dict(report.user_properties).get("remark", ""))
    if call.excinfo is None:  # a strict mark: an excuse that is not needed
        return "fail", "the card excuses the method from this check, but it passes"
    error = call.excinfo.value
    told = isinstance(error, (pytest.skip.Exception, pytest.fail.Exception, CompatbenchError))
    reason = str(error) if told else explain(error)
    if excuse := getattr(report, "wasxfail", ""):
        return "skip", f"{excuse} (excused: {reason})"
    return ("skip" if report.skipped else "fail"), reason
