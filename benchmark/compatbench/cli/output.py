"""Print lines and frames on a terminal. All commands share one console per stream."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from compatbench.files.kinds import require_new
from compatbench.messages import printable
from compatbench.tables.console import SafeConsole

if TYPE_CHECKING:
    import pandas as pd

    from compatbench.method import Module
    from compatbench.tables.table import Table

MARKS = {"found": "[green]found[/]", "missing": "[yellow]missing[/]", "wrong": "[red]wrong[/]"}
console = SafeConsole(highlight=False)
error_console = SafeConsole(highlight=False, stderr=True)


def say(text: str, to: Console = console, style: str = "") -> None:
    """Print a line of markup. Only the terminal wraps it, so that it can be copied whole."""
    to.print(text, soft_wrap=True, style=style)


def show(value: Any, as_json: bool = False) -> None:
    """Print what a function returns: a frame, a table, a text, or several.

    A value with ``parts`` is printed part by part.
    """
    if as_json:
        print_json(value)
    elif isinstance(value, str | Path):
        say(escape(str(value)))
    elif hasattr(value, "without_minor"):  # a table
        show_table(value)
    elif hasattr(value, "columns"):
        print_frame(value)
    elif value is not None:
        parts = value.parts() if hasattr(value, "parts") else value
        for part in parts:
            show(part)


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Show a line that each call of the yielded function replaces. It disappears at the end."""
    with console.status("") as status:
        yield lambda line: status.update(escape(line))


def print_json(data: Any) -> None:
    """Print data as JSON: values of JSON, frames, records and reports.

    The console is not used, since it would wrap and colour the text.
    """

    def as_values(value: Any) -> Any:
        if hasattr(value, "columns"):  # a frame
            frame = value.astype(object).where(value.notna(), None)
            return frame.rename(columns=str).to_dict("records")
        if isinstance(value, Path):
            return str(value)
        if hasattr(value, "model_dump"):
            return value.model_dump(mode="json")
        if hasattr(value, "as_dict"):
            return value.as_dict()
        return asdict(value)

    print_json_text(json.dumps(data, indent=1, ensure_ascii=False, default=as_values))


def print_json_text(text: str) -> None:
    """Print JSON, with escapes for the characters that a terminal would obey."""

    def escaped(character: str) -> str:
        return json.dumps(character)[1:-1]

    text = printable(text, escaped)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = "".join(letter if letter.isascii() else escaped(letter) for letter in text)
    print(text)


def write_module(module: Module, path: Path, note: str = "") -> None:
    """Write a module to a new file, and print its path with a note on its origin."""
    module.save(require_new(path))
    say(escape(f"wrote {path}{note}: {module!r}"))


def show_table(table: Table) -> None:
    """Print a table with its caption above and its notes below."""
    from compatbench.tables.terminal import render_table

    if table.caption is not None:
        _print_prose(table.caption.text)
    console.print(render_table(table, console.width))
    for note in table.notes:
        _print_prose(note)


def _print_prose(text: str) -> None:
    """Print a sentence: wrapped between words on a terminal, and on one line in a file."""
    console.print(escape(text), soft_wrap=not console.is_terminal)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Collection[str] = ()
) -> None:
    """Print rows, whose cells may be ``TableCell``; the columns ``right`` are aligned right."""
    from compatbench.tables.table import plain_table

    left = [place for place, name in enumerate(columns) if name not in right]
    show_table(plain_table(columns, rows, left))


def print_frame(
    frame: pd.DataFrame, right: Collection[str] = (), narrow: Sequence[str] = ()
) -> None:
    """Print a frame; its numbers are aligned right, and a narrow terminal leaves columns out."""
    from compatbench.tables.table import frame_table

    show_table(replace(frame_table(frame, right), narrow=tuple(narrow)))


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print facts about one thing, a line each; facts without a value are left out.

    Lines that a terminal wraps keep their indent. In a file, no line is wrapped.
    """
    for name, value in facts.items():
        if value in (None, "", (), [], {}):
            continue
        line = escape(f"{name}: {_in_words(value)}")
        if console.is_terminal:
            console.print(Padding(line, (0, 0, 0, 2)))
        else:
            say(f"  {line}")


def _in_words(value: Any) -> str:
    """Return a value as people write it, such as ``yes``, ``50,000`` or ``train 12, test 3``."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        # Texts are on a line each. Numbers are on one line, such as ``0.481 0.458``.
        has_text = any(isinstance(each, str) for each in value)
        between = "\n" if has_text else " "
        return between.join(map(_in_words, value))
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
