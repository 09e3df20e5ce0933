"""The rules by name, as the modules of tests define them, and how a broken one is told."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import pytest

Status = Literal["pass", "fail", "skip"]
Remark = Callable[[str, object], None]  # pytest's ``record_property``, which takes a "remark"
MODULES = ("fit_checks", "attach_checks")


@dataclass(frozen=True)
class Outcome:
    """The result of one check of one method."""

    method: str
    check: str  # such as ``same-seed``
    status: Status
    rule: str  # one line that says what must hold
    reason: str  # of a failure or of a skip; a remark, or nothing, on a pass
    seconds: float = 0.0


def find_checks() -> dict[str, Callable[..., None]]:
    """Return the checks in the order in which they are tried."""
    modules = (importlib.import_module(f"{__package__}.{name}") for name in MODULES)
    functions = [function for module in modules for function in vars(module).items()]
    return {check_name(name): test for name, test in functions if name.startswith("test_")}


def check_name(function: str) -> str:
    """The name of the check that a test function is."""
    return function.removeprefix("test_").replace("_", "-")


def find_rule(check: str) -> str:
    """One line that says what must hold."""
    return (find_checks()[check].__doc__ or "").splitlines()[0]


def require(holds: object, otherwise: str) -> None:
    """Fails the check with a reason, unless something holds."""
    if not holds:
        pytest.fail(otherwise)


def quoted(names: Iterable[str]) -> str:
    """Names in quotes, the first three of them."""
    words = [f"'{name}'" for name in names]
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return ", ".join(words[:3]) + more
