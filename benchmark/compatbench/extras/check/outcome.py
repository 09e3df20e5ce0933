"""The outcome of a rule, and how a rule says that it is broken, or cannot be tried."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "fail", "skip"]


@dataclass(frozen=True)
class RuleOutcome:
    """The result of one check of one method."""

    method: str
    check: str  # such as ``same-seed``
    status: Status
    rule: str  # one line that says what must hold
    reason: str  # of a failure or of a skip; a remark, or nothing, on a pass
    seconds: float = 0.0


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
