"""What is checked, the outcome of a rule, and how a rule says that it is broken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "fail", "skip"]
FOLLOWS = "follows from"  # begins the reason of a rule that was skipped because another failed


@dataclass(frozen=True)
class RuleOutcome:
    """The result of one check of one method."""

    method: str
    check: str  # such as ``same-seed``
    status: Status
    rule: str  # one line that says what must hold
    reason: str  # of a failure or of a skip; a remark, or nothing, on a pass
    seconds: float = 0.0


@dataclass(frozen=True)
class Selection:
    """The methods and checks that names select.

    Attributes:
        methods: the file of each method that is not found by its name; None for the others.
        outside: the identity of the code of each method that is not the repository's.
        broken: why a file cannot be loaded, by its method, if all methods are selected.
        checks: what must hold, by the name of the check.
        is_complete: True if no check is left out.
    """

    methods: Mapping[str, str | None]
    outside: Mapping[str, str]
    broken: Mapping[str, str]
    checks: Mapping[str, str]
    is_complete: bool


# Neither is an ``Exception``: a method that catches errors must not catch its own verdict.
class BrokenRule(BaseException):
    """A method breaks the rule that is being tried, for this reason."""


class SkippedRule(BaseException):
    """The rule cannot be tried, for this reason."""


def require(holds: object, otherwise: str) -> None:
    """Raise BrokenRule with a reason, unless something holds."""
    if not holds:
        raise BrokenRule(otherwise)


def quoted(names: Iterable[str]) -> str:
    """Return the first three names in quotes, and how many more there are."""
    words = [f"'{name}'" for name in names]
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return ", ".join(words[:3]) + more
