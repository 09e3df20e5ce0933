"""What a check says: its outcome, and how a rule that is broken is told."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

Status = Literal["pass", "fail", "skip"]
Remark = Callable[[str, object], None]  # pytest's ``record_property``, which takes a "remark"


@dataclass(frozen=True)
class Outcome:
    """The result of one check of one method, or of one transfer."""

    method: str
    check: str  # such as ``same-seed``
    status: Status
    rule: str  # one line that says what must hold
    reason: str  # of a failure or of a skip; a remark, or nothing, on a pass
    seconds: float = 0.0


def require(holds: object, otherwise: str) -> None:
    """Fails the check with a reason, unless something holds."""
    if not holds:
        pytest.fail(otherwise)


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
