"""``compatbench check``: the conformance kit as tables."""

from __future__ import annotations

from collections import Counter

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compatbench.conformance import CHECKS, Outcome, run_checks
from compatbench.data.cards import select_names
from compatbench.errors import CompatbenchError
from compatbench.method import Method
from compatbench.method.registry import builtin_methods

STYLES = {"pass": "green", "fail": "bold red", "skip": "yellow"}


def check_command(console: Console, *, methods: str, only: str) -> None:
    """Tries the checks on every method of a selection.

    One method gets a table of its checks; of several, each gets a line, and their
    failures are listed at the end.

    Raises:
        CompatbenchError: an unknown method or check, or a file that cannot be loaded.
        typer.Exit: with 1, if a check failed or, for ``all``, a method could not be loaded.
    """
    registry = builtin_methods()
    chosen = registry.select(methods)
    if not chosen:
        raise CompatbenchError(f"'{methods}' leaves no method")
    names = select_names(only, list(CHECKS), "check")
    if not names:
        raise CompatbenchError(f"--only '{only}' leaves no check")
    classes = [registry.get(name) for name in chosen]
    failed = _check_one(console, classes[0], names) if len(classes) == 1 else 0
    if len(classes) > 1:
        failed = _check_several(console, classes, names)
    broken = registry.broken if methods == "all" else {}
    for name, why in broken.items():
        _say(console, f"[bold red]cannot be loaded[/] {escape(name)}: {escape(why)}")
    if failed or broken:
        raise typer.Exit(1)


def _check_one(console: Console, method: type[Method], names: list[str]) -> int:
    outcomes = _run(console, method, names)
    table = _table("check", "", "rule, or reason", "seconds")
    for outcome in outcomes:
        text = outcome.check.rule if outcome.status == "pass" else outcome.reason
        if outcome.status == "pass" and outcome.reason:
            text = f"{text} ({outcome.reason})"
        table.add_row(
            outcome.check.name,
            f"[{STYLES[outcome.status]}]{outcome.status}[/]",
            escape(text),
            f"{outcome.seconds:.1f}",
        )
    console.print(table)
    counts = Counter(outcome.status for outcome in outcomes)
    _say(console, f"{method.card.name}: {_words(counts)}")
    return counts["fail"]


def _check_several(console: Console, methods: list[type[Method]], names: list[str]) -> int:
    failures: list[tuple[str, Outcome]] = []
    widest = max(len(method.card.name) for method in methods)
    for method in methods:
        outcomes = _run(console, method, names)
        counts = Counter(outcome.status for outcome in outcomes)
        failures += [(method.card.name, o) for o in outcomes if o.status == "fail"]
        mark = "[bold red]fail[/]" if counts["fail"] else "[green]pass[/]"
        seconds = sum(outcome.seconds for outcome in outcomes)
        name = method.card.name.ljust(widest)
        _say(console, f"{mark}  {escape(name)}  {_words(counts)}  {seconds:.1f} s")
    if failures:
        table = _table("method", "failed check", "reason")
        for name, outcome in failures:
            table.add_row(name, outcome.check.name, escape(outcome.reason))
        console.print()
        console.print(table)
    wrong = len({name for name, _ in failures})
    _say(console, f"{len(methods) - wrong} of {len(methods)} methods pass")
    return len(failures)


def _run(console: Console, method: type[Method], names: list[str]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    with console.status("") as status:
        for outcome in run_checks(method, *names):
            outcomes.append(outcome)
            status.update(f"{method.card.name}: {len(outcomes)} of {len(names)} checks")
    return outcomes


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column == "seconds" else "left")
    return table


def _words(counts: Counter[str]) -> str:
    """``21 passed, 1 failed, 1 skipped``; what there is none of is left out."""
    words = {"pass": "passed", "fail": "failed", "skip": "skipped"}
    return ", ".join(f"{counts[status]} {word}" for status, word in words.items() if counts[status])


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
