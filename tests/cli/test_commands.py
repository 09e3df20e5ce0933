"""Commands that only read (list, report, help), and the functions that commands call."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import output_of
from typer.main import get_command

import compatbench
from compatbench.cli.app import app
from compatbench.data.cards import backbone_cards, suite_cards, task_cards
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import content_names
from compatbench.method.registry import builtin_methods, builtin_transfers
from compatbench.plugins import offered

REPOSITORY = Path(__file__).parents[2]
NAMES = {
    "methods": builtin_methods().names,
    "tasks": task_cards.names,
    "backbones": backbone_cards.names,
    "suites": suite_cards.names,
    "transfers": builtin_transfers().names,
}


@pytest.mark.parametrize("kind", NAMES)
def test_list_shows_every_name_on_80_columns(kind: str) -> None:
    lines = output_of("list", kind, COLUMNS="80").splitlines()
    assert max(map(len, lines)) <= 80
    shown = {line.split(" ")[0] for line in lines}
    assert set(NAMES[kind]()) <= shown  # no name is cut or wrapped


def test_without_a_command_the_first_commands_are_shown() -> None:
    lines = output_of(COLUMNS="80").splitlines()
    commands = re.findall(r"^  compatbench (\S+)", "\n".join(lines), re.MULTILINE)
    assert commands == ["run", "new-method", "new-task"]
    assert max(map(len, lines)) <= 80


def commands_of(group: Any, words: str = "") -> dict[str, Any]:
    """Return the commands of a group, and of the groups in it, by their words."""
    found = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= commands_of(command, f"{words}{name} ")
        else:
            found[f"{words}{name}"] = command
    return found


def flags_of(command: Any) -> set[str]:
    """Return the options of a command as they are written."""
    flags: set[str] = set()
    for option in command.params:
        flags |= set(option.opts)
    return flags


ALL = commands_of(get_command(app))

TEN = ["run", "plan", "list", "report"]
TEN += ["evaluate", "advise", "new-task", "new-method", "check"]
GROUPS = {
    "module": ["import", "export", "port"],
    "store": ["runs", "cache", "data", "doctor"],
    "maintain": ["tune", "audit", "submit"],
    "index": ["measure", "map", "port", "one-model", "runtime"],
    "study": ["claims", "layers"],
}


def json_of(*words: object) -> Any:
    return json.loads(output_of(*words, "--json"))


def commands_in_help(*words: str) -> list[str]:
    """Return the commands that a help page shows, in its order."""
    shown = output_of(*words, "--help", COLUMNS="80")
    assert max(map(len, shown.splitlines())) <= 80
    return re.findall(r"^│ ([a-z][a-z-]*) ", shown, re.MULTILINE)


def test_help_shows_commands_and_groups() -> None:
    assert commands_in_help() == [*TEN, *GROUPS]
    for group, names in GROUPS.items():
        assert sorted(commands_in_help(group)) == sorted(names)


def test_help_describes_every_command_and_option() -> None:
    assert "compatbench run --methods all" in output_of("--help")
    commands = [get_command(app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        assert command.help, command.name
        for option in command.params:
            assert getattr(option, "help", ""), option.name
        named = re.findall(r"compatbench ([a-z-]+)", command.help)
        assert {*named} <= {*TEN, *GROUPS}, command.help
    assert len(commands) > 25
    shown = "Nothing is fetched and nothing is written, but damaged records are set aside."
    assert shown in " ".join(output_of("plan", "--help").split())


def test_commands_use_the_same_words_for_options() -> None:
    """The new model is the target in every command, even if the function calls it otherwise."""
    for name, command in ALL.items():
        flags = flags_of(command)
        assert not flags & {"--to", "--with", "--by", "--backbone", "--method"}, name
        assert not {"--task", "--tasks"} <= flags, name


NO_TABLE = {"report", "new-method", "module export", "module port", "index map", "index port"}
NO_TABLE |= {"store data fetch", "store data weights", "store runs prune", "store cache prune"}


def test_every_command_that_prints_a_table_prints_json() -> None:
    for name, command in ALL.items():
        flags = flags_of(command)
        assert ("--json" in flags) == (name not in NO_TABLE), name


def test_json_output_equals_return_value() -> None:
    assert [row["name"] for row in json_of("list", "methods", "coop,kg*")] == ["coop", "kgcoop"]
    planned = json_of("plan", "--tasks", "mini-food", "--methods", "taskres")
    plan = compatbench.plan("mini", "taskres", tasks="mini-food")
    assert planned == plan.frame.to_dict("records")
    diagnosis = json_of("store doctor", "--tasks", "mini-food")
    assert [task["state"] for task in diagnosis["tasks"]] == ["found"]
    assert {row["name"] for row in json_of("module import")} >= {"coop", "clip_adapter"}


@pytest.mark.slow
def test_report_check_refuses_a_leaderboard_edited_by_hand(tmp_path: Path) -> None:
    """``.ci/run`` compares the committed one."""
    results = tmp_path / "results" / "mini"
    results.mkdir(parents=True)
    for path in (REPOSITORY / "results" / "mini").glob("zeroshot.*"):
        shutil.copy(path, results)
    output_of("report", "--out", tmp_path)
    assert "up to date" in output_of("report", "--check", "--out", tmp_path)
    (tmp_path / "leaderboard.md").write_text("edited by hand\n")
    with pytest.raises(CompatbenchError, match="is not what results/ gives"):
        output_of("report", "--check", "--out", tmp_path)


@pytest.mark.parametrize("package", ["methods", "tasks"])
def test_content_folders_cannot_be_imported_alone(package: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", f"import {package}"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert f"import this package as 'compatbench.{package}'" in result.stderr.splitlines()[-1]


# Commands by the function of ``compatbench`` that each calls.
FUNCTIONS = {
    "run": "run",
    "plan": "plan",
    "report": "report",
    "evaluate": "evaluate",
    "advise": "advise",
    "new-task": "new_task",
    "check": "check",
    "module import": "import_module",
    "module export": "export_module",
    "module port": "port",
    "store doctor": "diagnose",
    "store data fetch": "fetch_data",
    "store data weights": "fetch_backbones",
    "study layers": "analyze_layers",
    "study claims": "analyze_claims",
    "maintain tune": "tune",
    "maintain audit": "audit_results",
    "maintain submit": "submit_rows",
    "index measure": "measure_index",
    "index map": "fit_index_map",
    "index port": "port_index",
    "index one-model": "check_one_model",
    "index runtime": "check_runtime",
}
# Commands that call several functions, or none of ``compatbench``.
NO_FUNCTION = {"list", "new-method"}
NO_FUNCTION |= {"store runs ls", "store runs prune", "store cache ls", "store cache prune"}
# Parameters that are not options, or whose options have another name.
NO_OPTIONS = {"progress", "tell", "on_start", "on_event", "compute"}
RENAMED = {"backbone": "target"}


def test_every_command_is_compared_with_its_function() -> None:
    assert FUNCTIONS.keys() == ALL.keys() - NO_FUNCTION


@pytest.mark.parametrize("words", FUNCTIONS)
def test_command_has_the_parameters_and_defaults_of_its_function(words: str) -> None:
    options = {option.name: option for option in ALL[words].params}
    function = getattr(compatbench, FUNCTIONS[words])
    for name, parameter in inspect.signature(function).parameters.items():
        if name in NO_OPTIONS:
            continue
        option = options[RENAMED.get(name, name)]
        default = parameter.default
        if default not in (inspect.Parameter.empty, (), None) and option.default is not None:
            assert str(option.default) == str(default), name


def test_compute_options_have_the_defaults_of_the_class() -> None:
    options = {option.name: option.default for option in ALL["run"].params}
    for field in dataclasses.fields(compatbench.Compute):
        assert options[field.name] == field.default, field.name


def test_stub_lists_the_functions_of_the_core() -> None:
    stub = Path(compatbench.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    of_core = set(compatbench.__all__) - set(offered("FUNCTIONS"))
    imports = re.findall(r"^from (compatbench\S+) import (\w+) as (\w+)$", stub, re.MULTILINE)
    assert sorted(name for _, name, _ in imports) == sorted(of_core)
    for module, name, same_name in imports:
        assert name == same_name
        assert getattr(compatbench, name) is getattr(importlib.import_module(module), name)


@pytest.mark.slow
def test_function_is_not_hidden_by_the_folder_of_its_name() -> None:
    code = (
        "import compatbench as cb, compatbench.results.rows, compatbench.methods.coop as coop\n"
        "from compatbench.results import rows\n"
        "assert callable(cb.results) and callable(cb.methods)\n"
        "assert cb.results.rows is rows and cb.methods.coop is coop\n"
        "import compatbench.results.evaluation\n"
        "assert callable(cb.results.evaluation.evaluate)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


MISSPELT = [
    "run --suite smke",
    "plan --tasks mini-fod",
    "run --methods coopp",
    "plan --transfers wrods",
    "check coopp",
    "maintain tune cop",
    "study claims --suite mni",
    "advise --suite mni",
    "store doctor --suite mni",
    "evaluate module.safetensors --target mini-eva-clp",
    "module port module.safetensors --target mini-eva-clp",
    "study layers mini-clp mini-eva-clip",
    "store data weights mini-clp",
    "new-task photos --source mini-clp",
]


def test_misspelt_name_is_reported_before_pytorch_is_loaded() -> None:
    code = (
        "import sys\nfrom compatbench.cli import main\n"
        f"for words in {MISSPELT}:\n"
        "    sys.argv[1:] = words.split()\n"
        "    try: main()\n"
        "    except SystemExit: print(words, 'torch' in sys.modules, sep=': ')"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == [f"{words}: False" for words in MISSPELT]
    reports = shown.stderr.splitlines()
    assert len(reports) == len(MISSPELT)
    for report in reports:
        assert "did you mean" in report


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
def test_command_imports_nothing_heavy_that_it_does_not_need(
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


@pytest.mark.parametrize("kind", ["methods", "transfers"])
def test_every_content_file_has_the_name_of_what_it_defines(kind: str) -> None:
    """Completion and early errors know names by files, without loading them."""
    listed = getattr(compatbench, kind)()
    assert content_names(kind) == sorted(listed["name"])


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def in_ascii(folder: Path, *words: str) -> str:
    """Return what a command prints if its streams can only encode ASCII."""
    command = [sys.executable, "-m", "compatbench", *words]
    environment = os.environ | ASCII | {"COLUMNS": "80"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    return done.stdout.decode("ascii")


@pytest.mark.skipif(not sys.prefix.isascii(), reason="Python itself cannot start from this folder")
def test_output_is_what_an_ascii_stream_can_encode(tmp_path: Path) -> None:
    folder = tmp_path / "für Tests"
    folder.mkdir()
    in_ascii(folder, "run", "--suite", "smoke", "--methods", "zeroshot")
    assert (folder / "results" / "smoke" / "zeroshot.csv").is_file()
    assert "mini-clip > mini-eva-clip" in in_ascii(folder, "list", "suites", "smoke")
    card = in_ascii(folder, "list", "suites", "smoke", "--json")
    assert json.loads(card) == json_of("list suites", "smoke")
