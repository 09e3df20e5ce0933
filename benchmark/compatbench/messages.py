"""Pieces of messages: errors in one line, text that a terminal may show, counts and durations."""

from __future__ import annotations

import codecs
import io
import unicodedata
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from rich.console import Console


def can_show_bar(console: Console) -> bool:
    """Return True for a terminal, and for a notebook that has ipywidgets, which bars need there."""
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return console.is_terminal


def first_line(error: Exception) -> str:
    """Return the first line of a library's error; of an error of the system without the path."""
    text = getattr(error, "strerror", None) or str(error)
    for line in text.splitlines():
        if line.strip():
            return line.strip()
    return type(error).__name__


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Return the dotted field of the first problem (empty for the whole model), and its message."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return field, message


def printable(text: str, instead: Callable[[str], str] = lambda _: "\ufffd") -> str:
    """Replace the characters that a terminal obeys or hides; keep the ends of lines."""
    if text.isprintable():
        return text
    shown = []
    for character in text:
        if character.isprintable() or character == "\n":
            shown.append(character)
        else:
            shown.append(instead(character))
    return "".join(shown)


# One letter for one, so that columns stay in line.
_PLAIN = {"→": ">", "−": "-", "–": "-", "—": "-", "×": "x", "…": ".", "·": ".", "’": "'"}


def write_what_fits(stream: object) -> None:
    """Let a stream replace the characters that its encoding lacks, instead of raising an error."""
    codecs.register_error("compatbench.plain", _replace_characters)
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="compatbench.plain")


def _replace_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in lacking), error.end


def count(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 task`` or ``7 tasks``."""
    plural = "" if number == 1 else "s"
    return f"{number:,} {noun}{plural}"


def count_are(number: int, noun: str) -> str:
    """Return a number with its noun and verb: ``1 task is`` or ``7 tasks are``."""
    return f"{count(number, noun)} {is_or_are(number)}"


def is_or_are(number: int) -> str:
    """Return the verb of so many things."""
    return "is" if number == 1 else "are"


def conjugate(number: int, verb: str) -> str:
    """Return a regular verb for so many things: ``loses`` for 1, and ``lose`` for 7."""
    return f"{verb}s" if number == 1 else verb


def join_words(words: Sequence[str]) -> str:
    """Return ``a``, ``a and b``, or ``a, b and c``."""
    if len(words) < 2:
        return "".join(words)
    *others, last = words
    return f"{', '.join(others)} and {last}"


def lower_first(text: str) -> str:
    """Return the text with a small first letter, for the middle of a sentence."""
    return text[:1].lower() + text[1:]


def one_line(text: str, longest: int = 200) -> str:
    """Return the text without control and other invisible characters, cut if it is long."""
    visible = []
    for character in text:
        is_invisible = unicodedata.category(character)[0] in "CZ"  # control, format, separator
        visible.append(" " if is_invisible else character)
    line = " ".join("".join(visible).split())
    if len(line) <= longest:
        return line
    return line[: longest - 1] + "…"


def format_seconds(seconds: float) -> str:
    """Return a duration in words: ``40 s``, ``3 min``, ``2 h 10 min``, ``5 days``."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours = minutes // 60
    if hours < 72:
        return f"{hours} h {minutes % 60} min"
    return f"{round(hours / 24):,} days"
