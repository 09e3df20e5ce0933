"""The processes in which contributed code is checked: a fresh one for every method.

A *host* is an interpreter that has loaded everything. It forks a process for each method; where the
system cannot fork safely, each starts anew. ``check_processes`` starts two kinds of it: one checks
methods, and the other, with other hashes, another time zone, home and folder, fits them for the
rule that compares a fit with that of another process.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from compatbench.data.cards import select_names
from compatbench.errors import CompatbenchError
from compatbench.extras.check.file_watch import WATCH
from compatbench.extras.check.method_under_test import Elsewhere, MethodUnderTest
from compatbench.extras.check.models import synthetic_models
from compatbench.extras.check.outcome import BrokenRule, Selection
from compatbench.extras.check.rules import RULES, describe_rule, try_rule
from compatbench.method.mistakes import explain
from compatbench.method.registry import builtin_methods


def host_checks(connection: Connection, elsewhere: Connection) -> None:
    """Serve one end of a connection: select methods if asked to, then check those requested.

    A pair of texts is a selection of methods and one of checks; the answer is a ``Selection``, or
    the message of an error. A pair of collections is the methods to check, with their files, and
    the checks. Each outcome is sent, and for each method the exit code of its process.
    """
    WATCH.install()
    methods, checks = connection.recv()
    if isinstance(methods, str):
        try:
            connection.send(select(methods, checks))
        except CompatbenchError as error:
            connection.send(str(error))
            return
        load_models()
        methods, checks = connection.recv()
    load_models()
    for name, file in methods.items():
        process = _start(_check_method, connection, elsewhere, name, file, checks)
        process.join()
        connection.send(process.exitcode)


def select(methods: str, checks: str | Sequence[str]) -> Selection:
    """Return the methods and checks that names, globs and files select.

    Raises:
        CompatbenchError: an unknown method or check, a named file that cannot be loaded, or an
            empty selection.
    """
    registry = builtin_methods()
    names = registry.select(methods)
    if not names:
        raise CompatbenchError(f"'{methods}': no method matches")
    selected = select_names(checks, list(RULES), "check")
    if not selected:
        raise CompatbenchError(f"'{checks}': no check matches")
    files = {}
    outside = {}
    for name in names:
        identity, files[name] = registry.identify(name)
        if ":" in identity:
            outside[name] = identity
    return Selection(
        methods=files,
        outside=outside,
        broken=dict(registry.broken) if methods == "all" else {},
        checks={check: describe_rule(check) for check in selected},
        is_complete=len(selected) == len(RULES),
    )


def _check_method(
    connection: Connection,
    elsewhere: Connection,
    name: str,
    file: str | None,
    checks: Sequence[str],
) -> None:
    WATCH.install()
    tested = load_method(name, file, lambda method: ask_elsewhere(elsewhere, method, file))
    WATCH.begin(tested.cls)
    for check in checks:
        connection.send(try_rule(check, tested))


def ask_elsewhere(connection: Connection, name: str, file: str | None = None) -> dict[str, str]:
    """Return what a fit of a method gives elsewhere, as ``MethodUnderTest.describe_fit`` has it."""
    try:
        connection.send((name, file))
        described = connection.recv()
    except (EOFError, OSError):
        raise BrokenRule("the other process has ended") from None
    if isinstance(described, str):
        raise BrokenRule(described)
    return described


def host_fits(connection: Connection) -> None:
    """Describe a fit of every method that is asked for, each in a process of its own."""
    builtin_methods()
    synthetic_models()
    end_loading()
    while True:
        try:
            name, file = connection.recv()
        except EOFError:
            return
        ours, theirs = Pipe()
        process = _start(_describe_fit, theirs, name, file)
        theirs.close()
        try:
            described = ours.recv()
        except EOFError:
            process.join()
            described = f"a new process ended with exit code {process.exitcode}"
        process.join()
        connection.send(described)


def _describe_fit(connection: Connection, name: str, file: str | None) -> None:
    try:
        connection.send(load_method(name, file).describe_fit())
    except BaseException as error:
        connection.send(explain(error))


def load_models() -> None:
    """Build all models that methods are tried on, before processes are forked."""
    _ = synthetic_models().others
    end_loading()


def end_loading() -> None:
    """Turn garbage collection on again, for objects made from now on."""
    gc.freeze()
    gc.enable()


def load_method(
    name: str, file: str | None, describe_elsewhere: Elsewhere | None = None
) -> MethodUnderTest:
    """Return the method of this name, from its file if it has one."""
    if file is not None:
        builtin_methods().add_file(Path(file))
    return MethodUnderTest(builtin_methods().get(name), describe_elsewhere)


def _start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a process, forked where that is safe after PyTorch was loaded."""
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    process = context.Process(target=target, args=arguments)
    process.start()
    return process
