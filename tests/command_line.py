"""The command line in the tests' own process."""

from __future__ import annotations

import sys

from typer.testing import CliRunner, Result

from compatbench.cli.app import app


def invoke(*arguments: object, **environment: str) -> Result:
    """Runs a command on a wide terminal; an error of ours is raised.

    The first argument may be several words, such as ``store runs ls``.
    """
    variables = {"COLUMNS": "200"} | environment
    words = str(arguments[0]).split() if arguments else []
    given = [*words, *map(str, arguments[1:])]
    return CliRunner().invoke(app, given, env=variables, catch_exceptions=False)


def output_of(*arguments: object, **environment: str) -> str:
    """What a command that ends well prints; not what it says beside on the other stream."""
    result = invoke(*arguments, **environment)
    assert result.exit_code == 0, result.output
    return result.stdout


def forget_files() -> None:
    """Empties what is remembered of files, where tests put others in their place."""
    for name, module in list(sys.modules.items()):
        if name.startswith("compatbench"):
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()
