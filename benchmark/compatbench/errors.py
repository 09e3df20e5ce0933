"""What can go wrong, in one line for the user."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class CompatbenchError(Exception):
    """A mistake in the input that the user can correct: names the place, the field and the fix.

    The command line prints the message alone, without a traceback, and exits with 2.
    """


class BackboneError(CompatbenchError):
    """A backbone that cannot be loaded as asked: the problem, and what to do about it."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem, fix)
        self.problem, self.fix = problem, fix

    def __str__(self) -> str:
        return f"{self.problem}; {self.fix}"


class MissingWeights(BackboneError):
    """A backbone whose weights are not on this machine."""


class CompatbenchWarning(UserWarning):
    """Something was repaired or left out; the run continues."""


class NotTransferable(Exception):
    """Raised by ``Method.attach`` when a module has no meaning on a backbone.

    For example, a residual over 512 image features on a backbone with 768.
    This is a result of the benchmark, and shown as such.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def first_line(error: Exception) -> str:
    """What an error of a library says, in one line; of the system without the path."""
    text = getattr(error, "strerror", None) or str(error)
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line), type(error).__name__)


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The dotted field, empty if it is the whole, and the message of the first problem."""
    first = error.errors()[0]
    return ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")


def printable(text: str, instead: Callable[[str], str] = lambda _: "\ufffd") -> str:
    """The text, its lines kept, with a mark for each character that a terminal obeys or hides."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else instead(c) for c in text)


def count(number: int, noun: str) -> str:
    """``1 task`` or ``7 tasks``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def one_line(text: str, longest: int = 200) -> str:
    """The text without control, format and other invisible characters, cut if it is long."""
    visible = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    line = " ".join(visible.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
