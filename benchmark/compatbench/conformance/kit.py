"""What a check is, and how the checks of a method are run."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from compatbench.conformance.subject import NoModule, Subject
from compatbench.method import Method

Status = Literal["pass", "fail", "skip"]
CheckFunction = Callable[[Subject], "str | None"]


class CheckFailed(Exception):
    """A method breaks a rule; the message says how."""


class CheckSkipped(Exception):
    """A rule does not apply to a method; the message says why."""


@dataclass(frozen=True)
class Check:
    """A named rule that every method must keep.

    Attributes:
        name: such as ``same-seed``.
        rule: one line that says what must hold.
        run: tries it on a method; what it returns is a remark on a pass.
        needs_module: whether there is nothing to look at if the fit fails.
    """

    name: str
    rule: str
    run: CheckFunction
    needs_module: bool = True


@dataclass(frozen=True)
class Outcome:
    """What came of a check.

    Attributes:
        reason: of a failure or of a skip; perhaps a remark on a pass.
        seconds: wall clock.
    """

    check: Check
    status: Status
    reason: str
    seconds: float


CHECKS: dict[str, Check] = {}


def check(
    function: CheckFunction | None = None, *, needs_module: bool = True
) -> Callable[..., object]:
    """Registers a check under its function's name; its docstring's first line is the rule."""
    if function is None:
        return partial(check, needs_module=needs_module)
    name = function.__name__.replace("_", "-")
    assert function.__doc__ is not None
    CHECKS[name] = Check(name, function.__doc__.splitlines()[0], function, needs_module)
    return function


def run_checks(method: type[Method], *names: str) -> Iterator[Outcome]:
    """Tries every check, or those named, on a method, and yields each outcome as it is known.

    One thread computes: tensors this small gain nothing from several.
    """
    subject = Subject(method)
    try:
        for item in [CHECKS[name] for name in names] if names else list(CHECKS.values()):
            with _one_thread():
                yield _run(item, subject)
    finally:
        # The synthetic models serve the next method, too.
        subject.bench.restore()


def _run(item: Check, subject: Subject) -> Outcome:
    start = time.perf_counter()
    status: Status = "pass"
    try:
        if item.needs_module:
            _ = subject.module
        reason = item.run(subject) or ""
    except CheckSkipped as why:
        status, reason = "skip", str(why)
    except CheckFailed as why:
        status, reason = "fail", str(why)
    except NoModule:
        status, reason = "skip", "there is no module to look at; mend 'fit' first"
    except Exception as error:
        status, reason = "fail", describe_error(error)
    finally:
        subject.bench.restore(subject.source, subject.target)
    if (excuse := subject.card.excused.get(item.name)) and status != "skip":
        status, reason = _excuse(status, reason, excuse)
    return Outcome(item, status, reason, time.perf_counter() - start)


def _excuse(status: Status, reason: str, excuse: str) -> tuple[Status, str]:
    """An excused failure is a skip; an excuse that nothing needs is a failure."""
    if status == "fail":
        return "skip", f"{excuse} (excused: {reason})"
    return "fail", "the card excuses the method from this check, but it passes"


def quoted(names: Iterable[str], most: int = 3) -> str:
    """Names in quotes, the first few of them."""
    names = list(names)
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def describe_error(error: BaseException) -> str:
    """One line for an error in a method: what, and where."""
    text = str(error).splitlines()[0] if str(error) else ""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
