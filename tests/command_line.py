"""Run commands in the process of the tests."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from typer.main import get_command
from typer.testing import CliRunner, Result

from compatbench.cli.app import app
from compatbench.data.dataset_folders import set_data_roots

COMMAND: Any = get_command(app)


def invoke(*arguments: object, **environment: str) -> Result:
    """Run a command on a wide terminal, and raise its ``CompatbenchError``.

    The first argument may be several words, such as ``store runs ls``.
    """
    variables = {"COLUMNS": "200"} | environment
    words = str(arguments[0]).split() if arguments else []
    given = [*words, *map(str, arguments[1:])]
    return CliRunner().invoke(app, given, env=variables, catch_exceptions=False)


def output_of(*arguments: object, **environment: str) -> str:
    """Return what a successful command prints, without its standard error."""
    result = invoke(*arguments, **environment)
    assert result.exit_code == 0, result.output
    return result.stdout


def invoke_in(folder: Path, *arguments: object, **environment: str) -> Result:
    """Run a command in a folder, and forget its options and cached files afterwards.

    A run has one worker by default.
    """
    alone = arguments[0] == "run" and not {"--jobs", "--executor"} & {*arguments}
    with contextlib.chdir(folder), mock.patch.dict(os.environ):
        forget_files()
        try:
            jobs = ["--jobs", "1"] if alone else []
            return invoke(*arguments, *jobs, **{"COLUMNS": "100"} | environment)
        finally:
            set_data_roots([])
            forget_files()


def output_in(folder: Path, *arguments: object, **environment: str) -> str:
    """Return what a successful command prints in a folder."""
    result = invoke_in(folder, *arguments, **environment)
    assert result.exit_code == 0, result.output
    return result.stdout


def expect_known(words: list[str]) -> None:
    """Check that a command of these words exists and has their options, without running it."""
    place = COMMAND
    context = place.context_class(place)
    while hasattr(place, "resolve_command"):
        _, place, words = place.resolve_command(context, words)
        context = place.context_class(place, parent=context)
    place.make_parser(context).parse_args(words)


def forget_files() -> None:
    """Clear all caches of file contents, for tests that replace files."""
    for name, module in list(sys.modules.items()):
        if name.startswith("compatbench"):
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()
