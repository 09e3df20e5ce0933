"""How a check is registered, and how the checks of a method are run."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pandas as pd
import torch

from compatbench.conformance.method_under_test import MethodUnderTest
from compatbench.data.cards import select_names
from compatbench.errors import CompatbenchError
from compatbench.method import Method
from compatbench.method.registry import builtin_methods

# Tries a rule on a method; what it returns is a remark on a pass.
Check = Callable[[MethodUnderTest], "str | None"]

Status = Literal["pass", "fail", "skip"]
CHECKS: dict[str, Check] = {}
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
    takes seconds on one core. No data set and no weights are needed.

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
    registry = builtin_methods()
    names = registry.select(methods if isinstance(methods, str) else ",".join(methods))
    checks = select_names(only, list(CHECKS), "check")
    for what, wanted, found in (("method", methods, names), ("check", only, checks)):
        if not found:
            raise CompatbenchError(f"'{wanted}' leaves no {what}")
    outcomes = []
    for name in names:
        for outcome in run_checks(registry.get(name), *checks):
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
            [rule, *_] = (CHECKS[name].__doc__ or "").splitlines()
            seconds = time.perf_counter() - start
            yield Outcome(tested.card.name, name, status, rule, reason, seconds)
    finally:
        torch.set_num_threads(threads)
        # The synthetic models serve the next method, too.
        tested.models.restore()


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
