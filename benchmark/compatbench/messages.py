"""Pieces of messages: what an error says in one line, and text that a terminal may show."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


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


def format_seconds(seconds: float) -> str:
    """A duration in words: ``40 s``, ``3 min``, ``2 h 10 min``, ``5 days``."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours = minutes // 60
    if hours < 72:
        return f"{hours} h {minutes % 60} min"
    return f"{round(hours / 24):,} days"
