"""How a check is registered, and how the checks of a method are run."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args

import pandas as pd
import torch

from compatbench.data.cards import select_names
from compatbench.engine.confined.child import Child, MethodFailed, ProcessEnded, find_fork_server
from compatbench.engine.confined.remote import ConfinedMethod, ConfinedRegistry
from compatbench.engine.execute.compute import Compute
from compatbench.errors import CompatbenchError
from compatbench.extras.check import other_process
from compatbench.extras.check.method_under_test import MethodUnderTest
from compatbench.extras.check.models import synthetic_models
from compatbench.messages import one_line
from compatbench.method import Method
from compatbench.method.refusals import forget_refusal, remember_refusal

if TYPE_CHECKING:
    from compatbench.engine.confined.server import MethodServer

# Tries a rule on a method, or on a transfer; what it returns is a remark on a pass.
Check = Callable[[Any], "str | None"]
AnyCheck = TypeVar("AnyCheck", bound=Check)
Status = Literal["pass", "fail", "skip"]
# What the fork server makes once, and what its children are asked.
PRELOAD = "compatbench.extras.check.attach_checks:prepare"
LOADER = "compatbench.extras.check.models:find_model"
IN_SERVER = "compatbench.extras.check.kit:run_in_server"
RESTORE = "compatbench.extras.check.kit:restore_in_server"
IN_TWO = "it takes two processes, as 'compatbench check' starts them"
# These look at the process that a method is in: its random state, and what it changes there.
INSIDE = frozenset({
    *("card", "settings", "global-randomness", "backbone-unchanged", "data-unchanged"),
    *("module-unchanged", "inputs-unchanged", "no-image", "turned-space", "place", "needs"),
})  # fmt: skip
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


class Checks(dict[str, Check]):
    """Checks by name, in the order in which they were added."""

    def add(self, function: AnyCheck) -> AnyCheck:
        """Adds a check under its function's name; its docstring's first line is the rule."""
        self[function.__name__.replace("_", "-")] = function
        return function

    def rule(self, name: str) -> str:
        """One line that says what must hold."""
        return (self[name].__doc__ or "").splitlines()[0]


CHECKS = Checks()
check = CHECKS.add


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
    registry = ConfinedRegistry()
    names = registry.select(methods if isinstance(methods, str) else ",".join(methods))
    checks = select_names(only, list(CHECKS), "check")
    for what, wanted, found in (("method", methods, names), ("check", only, checks)):
        if not found:
            raise CompatbenchError(f"'{wanted}' leaves no {what}")
    lock = threading.Lock()

    def try_method(name: str) -> list[Outcome]:
        torch.set_num_threads(1)  # of this thread; tensors this small gain nothing from several
        found = []
        for outcome in run_confined(registry, name, *checks):
            found.append(outcome)
            with lock:
                progress(outcome)
        return found

    find_fork_server({}, PRELOAD)  # they begin while the models are built here
    if "other-process" in checks:
        find_fork_server(other_process.ENVIRONMENT, other_process.PREPARE)
    synthetic_models()  # before threads ask for them
    # The methods compute in processes of their own, so threads keep all cores busy.
    pool = ThreadPoolExecutor(Compute().count_workers())
    try:
        outcomes = [one for found in pool.map(try_method, names) for one in found]
    finally:
        pool.shutdown(cancel_futures=True)
    for name in names:
        _remember(registry.identify(name)[0], [one for one in outcomes if one.method == name])
    if methods == "all":
        for name, why in registry.broken.items():
            outcomes.append(Outcome(name, "load", "fail", "the file can be loaded", why))
    return outcomes_frame(outcomes)


def outcomes_frame(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Outcomes as rows."""
    return pd.DataFrame(outcomes, columns=[field.name for field in fields(Outcome)])


def _remember(identity: str, outcomes: Sequence[Outcome]) -> None:
    """What was found of a method from outside, so that ``run`` does not rank what was refused."""
    failed = next((one for one in outcomes if one.status == "fail"), None)
    if ":" not in identity:  # the repository's own
        return
    if failed is not None:
        remember_refusal(identity, f"check '{failed.check}': {failed.reason}")
    elif len(outcomes) == len(CHECKS):
        forget_refusal(identity)


def run_checks(method: type[Method], *names: str) -> Iterator[Outcome]:
    """Tries every check, or those named, on a method class, and yields each outcome when known."""
    tested, threads = MethodUnderTest(method), torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small gain nothing from several
    try:
        for name in names or CHECKS:
            start, (status, reason) = time.perf_counter(), _run(name, tested)
            tested.models.restore(tested.source, tested.target)
            seconds = time.perf_counter() - start
            yield Outcome(tested.card.name, name, status, CHECKS.rule(name), reason, seconds)
    finally:
        torch.set_num_threads(threads)
        # The synthetic models serve the next method, too.
        tested.models.restore()


def run_confined(registry: ConfinedRegistry, name: str, *names: str) -> Iterator[Outcome]:
    """As ``run_checks``, of a method in a process of its own.

    Modules and logits come from that process, and are judged in this one, but for the checks
    ``INSIDE``. What ends the process, or is out of its reach, fails the check that was tried.
    """
    child, check = None, ""
    try:
        tested, child = _open(registry, name, preload=PRELOAD)
        for check in names or CHECKS:
            start = time.perf_counter()
            if check == "other-process":
                status, reason = _try_other_process(registry, name, tested)
            elif check in INSIDE:
                status, reason = _try_inside(child, name, check)
            else:
                status, reason = _run(check, tested)
            child.ask("call", function=RESTORE)
            seconds = time.perf_counter() - start
            rule, reason = CHECKS.rule(check), one_line(reason, 600)
            yield Outcome(name, check, status, rule, reason, seconds)
    except (CompatbenchError, MethodFailed, KeyError) as error:
        rule = CHECKS.rule(check) if check else "the method can be loaded"
        yield Outcome(name, check or "load", "fail", rule, one_line(str(error), 600))
    finally:
        if child is not None:
            child.close()


def _open(registry: ConfinedRegistry, name: str, **options: Any) -> tuple[MethodUnderTest, Child]:
    """A method in a new process, which has the synthetic models, too."""
    backbones: dict[str, dict[str, Any]] = {one: {} for one in synthetic_models().names}
    found = registry.open(name, {}, backbones=backbones, loader=LOADER, **options)
    cls: Any = _InProcess(registry.get(name), found.child)
    return MethodUnderTest(cls), found.child


class _InProcess:
    """What ``MethodUnderTest`` takes for the class of a method in another process."""

    def __init__(self, cls: type[Method], child: Child) -> None:
        self.card, self.Config, self._child = cls.card, cls.Config, child

    def __call__(self, config: Any) -> ConfinedMethod:
        return ConfinedMethod(self._child, self.card, config.model_dump())


def _try_inside(child: Child, name: str, check: str) -> tuple[Status, str]:
    """The outcome of a check that looks at the process of the method, as this process says."""
    answer = child.ask("call", function=IN_SERVER, method=name, check=check)
    if (status := str(answer["status"])) not in get_args(Status):
        raise CompatbenchError(f"method '{name}': the check gives no outcome")
    return cast(Status, status), str(answer["reason"])


def _try_other_process(
    registry: ConfinedRegistry, name: str, tested: MethodUnderTest
) -> tuple[Status, str]:
    """The outcome of the check that takes a second process."""
    options = {"environment": other_process.ENVIRONMENT, "preload": other_process.PREPARE}
    other, child = _open(registry, name, **options)
    try:
        here, there = map(other_process.describe_fit, (tested, other))
        asked = child.ask("call", function=other_process.ASKED)["asked"]
    finally:
        child.close()
    wrong = other_process.compare(here, there, list(map(str, asked)))
    return ("fail" if wrong else "pass"), wrong


def run_in_server(server: MethodServer, method: str, check: str) -> dict[str, str]:
    """Tries one check in the process that the method is in."""
    tested = server.memory.get("tested")
    if tested is None:
        tested = server.memory["tested"] = MethodUnderTest(server.registry.get(method))
    status, reason = _run(check, tested)
    return {"status": status, "reason": reason}


def restore_in_server(_: MethodServer) -> dict[str, str]:
    """Puts the models of the process back as they were made."""
    models = synthetic_models()
    models.restore(models.source, models.target)
    return {}


def _run(name: str, tested: MethodUnderTest) -> tuple[Status, str]:
    """The outcome of a check, and its reason."""
    excuse = tested.card.excused.get(name)
    try:
        if name not in WITHOUT_MODULE:
            _ = tested.fitted
    except ProcessEnded:
        raise
    except Exception:
        return "skip", "there is no module to look at; fix 'fit' first"
    try:
        remark = CHECKS[name](tested) or ""
    except CheckSkipped as why:
        return "skip", str(why)
    except ProcessEnded:
        raise
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
    if isinstance(error, MethodFailed):
        where = next(reversed(error.failure.trace), "")
        return f"{error.failure.error}{f' ({where})' if where else ''}"
    [text, *_] = str(error).splitlines() or [""]
    *_, frame = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"{type(error).__name__}{': ' if text else ''}{text} ({where})"
