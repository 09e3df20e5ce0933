"""The commands in the pages on real data are commands that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compatbench.cli.app import app
from compatbench.engine.execute.shards import Shard
from compatbench.engine.failures import parse_retry

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


def test_the_example_for_slurm_is_a_script_whose_options_are_known() -> None:
    script = DOCS / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8").replace("\\\n", " ")
    [command] = re.findall(r"^compatbench (.*)$", text, re.MULTILINE)
    words = [
        word.replace("$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT", "3/16")
        for word in shlex.split(command)
    ]
    assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0
    assert Shard.parse(words[words.index("--shard") + 1]) == Shard(3, 16)
    assert parse_retry(words[words.index("--retry") + 1])
