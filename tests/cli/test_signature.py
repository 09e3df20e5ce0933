"""Commands are made from functions: types from annotations, help from docstrings."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import compatbench as cb
from compatbench.cli.command import shell_options
from compatbench.cli.commands import COMMANDS
from compatbench.cli.signature import COMPUTED, read_signature
from compatbench.plugins import REQUIRED, Command, functions, load, offered

ALL = COMMANDS | offered("COMMANDS")


@pytest.mark.parametrize("name", sorted(set(functions()) - {"CompatbenchError"}))
def test_what_is_read_of_the_source_is_what_python_says(name: str) -> None:
    read = read_signature(name).parameters
    if inspect.isclass(function := getattr(cb, name)):
        assert list(read) == list(function.__dataclass_fields__)
        return
    kinds = (inspect.Parameter.VAR_KEYWORD,)
    said = inspect.signature(function).parameters.values()
    for parameter in (parameter for parameter in said if parameter.kind not in kinds):
        default = read[parameter.name].default
        if default is not COMPUTED:
            assert default is REQUIRED or default == parameter.default
            assert (default is REQUIRED) == (parameter.default is inspect.Parameter.empty)


@pytest.mark.parametrize("command", ALL.values(), ids=ALL)
def test_every_place_that_a_command_names_is_there(command: Command) -> None:
    places = [command.function, command.shown]
    for option in shell_options(command).values():
        places += [option.option.read, option.option.at_once]
    assert all(callable(load(place)) for place in filter(None, places))


HEAVY = ("torch", "open_clip", "scipy", "vl_convert", "jinja2")


@pytest.mark.parametrize(
    ("words", "unwanted"),
    [
        ("--version", (*HEAVY, "pandas", "numpy", "pydantic", "yaml")),
        ("--help", (*HEAVY, "pandas", "numpy", "pydantic", "yaml")),
        ("run --help", (*HEAVY, "pandas", "numpy")),
        ("list tasks", HEAVY),
        ("list suites", HEAVY),
    ],
)
def test_a_command_imports_nothing_heavy_that_it_does_not_need(
    words: str, unwanted: tuple[str, ...]
) -> None:
    code = (
        f"import sys; sys.argv[1:] = {words.split()}; from compatbench.cli import main\n"
        "try: main()\nexcept SystemExit: pass\nprint('imported', *sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = shown.stdout.splitlines()[-1].split()
    assert imported[0] == "imported"
    assert {*unwanted}.intersection(imported) == set()
