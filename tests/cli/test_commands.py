"""The commands that only look: list, plan, leaderboard, help."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import output_of
from typer.main import get_command

from compatbench.cli.app import app
from compatbench.cli.output import format_seconds
from compatbench.data.cards import backbone_cards, suite_cards, task_cards
from compatbench.errors import CompatbenchError
from compatbench.method.registry import builtin_methods

REPOSITORY = Path(__file__).parents[2]
NAMES = {
    "methods": builtin_methods().names,
    "tasks": task_cards.names,
    "backbones": backbone_cards.names,
    "suites": suite_cards.names,
}


@pytest.mark.parametrize("kind", NAMES)
def test_list_shows_every_name(kind: str) -> None:
    output = output_of("list", kind)
    assert all(name in output for name in NAMES[kind]())


def test_list_takes_globs_and_refuses_unknown_names() -> None:
    output = output_of("list", "methods", "tip*")
    assert "tip_adapter_f" in output
    assert "kgcoop" not in output
    with pytest.raises(CompatbenchError, match="did you mean coop"):
        output_of("list", "methods", "coopp")


def test_plan_counts_the_cells_of_the_suite(tmp_path: Path) -> None:
    output = output_of("plan", "--suite", "smoke", "--out", str(tmp_path))
    assert f"{len(builtin_methods().names())} cells" in output
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_first_command_and_says_what_every_option_is() -> None:
    assert "compatbench run --methods all" in output_of("--help")
    commands = [get_command(app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        assert command.help, command.name
        assert [one.name for one in command.params if not getattr(one, "help", "")] == []
    assert len(commands) > 25
    assert "Nothing is fetched and nothing is written. Times are" in output_of("plan", "--help")


@pytest.mark.slow
def test_the_committed_leaderboard_is_what_the_committed_results_give(tmp_path: Path) -> None:
    assert "up to date" in output_of("leaderboard", "--check", "--out", str(REPOSITORY))
    shutil.copytree(REPOSITORY / "results", tmp_path / "results")
    output_of("leaderboard", "--out", str(tmp_path))
    committed = (REPOSITORY / "leaderboard.md").read_bytes()
    assert (tmp_path / "leaderboard.md").read_bytes() == committed
    (tmp_path / "leaderboard.md").write_text("edited by hand\n")
    with pytest.raises(CompatbenchError, match="is not what results/ gives"):
        output_of("leaderboard", "--check", "--out", str(tmp_path))


@pytest.mark.parametrize("package", ["methods", "tasks"])
def test_the_plug_in_folders_are_not_packages_of_their_own(package: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", f"import {package}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert f"import this package as 'compatbench.{package}'" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (40, "40 s"), (150, "2 min"), (7800, "2 h 10 min")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert format_seconds(seconds) == words
