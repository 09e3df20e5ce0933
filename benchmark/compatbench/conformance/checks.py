"""How a check is registered, and how the checks of a method are run."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

import pandas as pd
import torch

from compatbench.conformance import other_process
from compatbench.conformance.method_under_test import MethodUnderTest
from compatbench.data.cards import select_names
from compatbench.engine.confined.child import Child, MethodFailed
from compatbench.engine.confined.remote import ConfinedRegistry
from compatbench.errors import CompatbenchError, one_line
from compatbench.method import Method

if TYPE_CHECKING:
    from compatbench.engine.confined.server import MethodServer

# Tries a rule on a method; what it returns is a remark on a pass.
Check = Callable[[MethodUnderTest], "str | None"]

Status = Literal["pass", "fail", "skip"]
CHECKS: dict[str, Check] = {}
# What the fork server makes once, and what its children are asked.
PRELOAD = "compatbench.conformance.models:synthetic_models"
IN_SERVER = "compatbench.conformance:run_in_server"
IN_TWO = "it takes two processes, as 'compatbench check' starts them"
# These have something to look at even if the fit fails.
WITHOUT_MODULE = ("card", "settings", "fit")


class CheckFailed(Exception):
    """A method breaks a rule; the message says how."""


class CheckSkipped(Exception):
    """A rule does not apply to a method; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """The result of one check of one method."""

    method: str
    check: str  # such as ``same-seed``
    status: Status
    rule: str  # one line that says what must hold
    reason: str  # of a failure or of a skip; a remark, or nothing, on a pass
    seconds: float = 0.0


def check(function: Check) -> Check:
    """Registers a check under its function's name; its docstring's first line is the rule."""
    CHECKS[function.__name__.replace("_", "-")] = function
    return function


def require(holds: object, otherwise: str) -> None:
    """Fails the check with a reason, unless something holds."""
    if not holds:
        raise CheckFailed(otherwise)


def check_methods(
    methods: str | Sequence[str] = "all",
    only: str | Sequence[str] = "all",
    *,
    progress: Callable[[Outcome], object] = lambda _: None,
) -> pd.DataFrame:
    """Tries the rules of the conformance kit on methods.

    Every method is fitted and attached on small random models with a few optimiser steps, which
    takes seconds on one core, in a process of its own. No data set and no weights are needed.

    Args:
        methods: names, globs, ``all``, exclusions (``!coop``), or the path of a method file,
            which is run as code.
        only: names, globs or exclusions of checks.
        progress: called with each outcome as soon as it is known.

    Returns:
        One row for each method and check, with the columns ``method``, ``check``, ``status``
        (``pass``, ``fail`` or ``skip``), ``rule``, ``reason`` and ``seconds``. With ``all``
        methods, a file that cannot be loaded has a row that fails the check ``load``.

    Raises:
        CompatbenchError: an unknown method or check, a named file that cannot be loaded, or an
            empty selection.
    """
    registry = ConfinedRegistry()
    names = registry.select(methods if isinstance(methods, str) else ",".join(methods))
    checks = select_names(only, list(CHECKS), "check")
    for what, wanted, found in (("method", methods, names), ("check", only, checks)):
        if not found:
            raise CompatbenchError(f"'{wanted}' leaves no {what}")
    outcomes = []
    for name in names:
        for outcome in run_confined(registry, name, *checks):
            outcomes.append(outcome)
            progress(outcome)
    if methods == "all":
        for name, why in registry.broken.items():
            outcomes.append(Outcome(name, "load", "fail", "the file can be loaded", why))
    return pd.DataFrame(outcomes, columns=[field.name for field in fields(Outcome)])


def run_checks(method: type[Method], *names: str) -> Iterator[Outcome]:
    """Tries every check, or those named, on a method class, and yields each outcome when known."""
    tested, threads = MethodUnderTest(method), torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small gain nothing from several
    try:
        for name in names or CHECKS:
            start, (status, reason) = time.perf_counter(), _run(name, tested)
            tested.models.restore(tested.source, tested.target)
            seconds = time.perf_counter() - start
            yield Outcome(tested.card.name, name, status, _rule(name), reason, seconds)
    finally:
        torch.set_num_threads(threads)
        # The synthetic models serve the next method, too.
        tested.models.restore()


def _rule(name: str) -> str:
    return (CHECKS[name].__doc__ or "").splitlines()[0]


def run_confined(registry: ConfinedRegistry, name: str, *names: str) -> Iterator[Outcome]:
    """As ``run_checks``, of a method in a process of its own.

    What ends the process, or is out of its reach, fails the check that was tried.
    """
    child, check = None, ""
    try:
        child = registry.open(name, {}, preload=PRELOAD).child
        for check in names or CHECKS:
            start = time.perf_counter()
            values = {"function": IN_SERVER, "values": {"method": name, "check": check}}
            answer, _ = child.ask("call", values)
            if answer["reason"] == IN_TWO:
                answer = _try_other_process(registry, name, child)
            status, reason = str(answer["status"]), one_line(str(answer["reason"]), 600)
            if status not in get_args(Status):
                raise CompatbenchError(f"method '{name}': the check gives no outcome")
            seconds = time.perf_counter() - start
            yield Outcome(name, check, cast(Status, status), _rule(check), reason, seconds)
    except (CompatbenchError, MethodFailed, KeyError) as error:
        rule = _rule(check) if check else "the method can be loaded"
        yield Outcome(name, check or "load", "fail", rule, one_line(str(error), 600))
    finally:
        if child is not None:
            child.close()


def _try_other_process(registry: ConfinedRegistry, name: str, child: Child) -> dict[str, str]:
    """The outcome of the check that takes a second process."""
    asked = {"function": other_process.DESCRIBE_FIT, "values": {"method": name}}
    options = {"environment": other_process.ENVIRONMENT, "preload": other_process.PREPARE}
    other = registry.open(name, {}, **options).child
    try:
        here, there = (one.ask("call", asked)[0] for one in (child, other))
    finally:
        other.close()
    wrong = other_process.compare(here, there)
    return {"status": "fail" if wrong else "pass", "reason": wrong}


def run_in_server(server: MethodServer, values: dict[str, str]) -> dict[str, str]:
    """Tries one check in the process that the method is in."""
    tested = server.memory.get("tested")
    if tested is None:
        cls = server.registry.get(values["method"])
        tested = server.memory["tested"] = MethodUnderTest(cls)
    status, reason = _run(values["check"], tested)
    tested.models.restore(tested.source, tested.target)
    return {"status": status, "reason": reason}


def _run(name: str, tested: MethodUnderTest) -> tuple[Status, str]:
    """The outcome of a check, and its reason."""
    excuse = tested.card.excused.get(name)
    try:
        if name not in WITHOUT_MODULE:
            _ = tested.module
    except Exception:
        return "skip", "there is no module to look at; fix 'fit' first"
    try:
        remark = CHECKS[name](tested) or ""
    except CheckSkipped as why:
        return "skip", str(why)
    except Exception as error:
        reason = str(error) if isinstance(error, CheckFailed) else describe_error(error)
        return ("skip", f"{excuse} (excused: {reason})") if excuse else ("fail", reason)
    if excuse:
        return "fail", "the card excuses the method from this check, but it passes"
    return "pass", remark


def quoted(names: Iterable[str]) -> str:
    """Names in quotes, the first three of them."""
    words = [f"'{name}'" for name in names]
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return ", ".join(words[:3]) + more


def describe_error(error: BaseException) -> str:
    """One line for an error in a method: what, and where."""
    [text, *_] = str(error).splitlines() or [""]
    *_, frame = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"{type(error).__name__}{': ' if text else ''}{text} ({where})"
