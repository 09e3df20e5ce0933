"""The commands in the pages on real data are commands that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compatbench.cli.app import app

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = [
    command
    for page in ("datasets.md", "running-for-real.md")
    for command in re.findall(
        r"compatbench ((?:doctor|plan|run|data) [^`'#&\n]*(?:'[^']*')?[^`'#&\n]*)",
        "\n".join(re.findall(r"(?ms)^```sh\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"))),
    )
]


@pytest.mark.parametrize("command", COMMANDS)
def test_its_options_are_known(command: str, tmp_path: Path) -> None:
    # The pages' folders do not exist here; where they matter they stand for any folder.
    words = [re.sub(r"/(data|fast/dtd)$", str(tmp_path), word) for word in shlex.split(command)]
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0, result.output


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 10
