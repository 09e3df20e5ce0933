"""A mistaken command gets one line with the place and the fix, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import invoke

from compatbench.data.task import task_labels
from compatbench.errors import CompatbenchError
from compatbench.method import Module

MISTAKES = []
for line in Path(__file__).with_name("mistakes.txt").read_text(encoding="utf-8").splitlines():
    if not line.startswith("#"):
        MISTAKES.append(line.split("  =>  "))
# Mistakes that typer finds, before a command starts.
WORDS = [
    ("evaluate module.safetensors", "Missing option '--target'"),
    ("rn", "Did you mean 'run'"),
    ("run --job 3", "--jobs"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module, a checkpoint, another file, and no results."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.py").write_text("mine")
    (tmp_path / "results").mkdir()
    torch.save({"ctx": torch.zeros(4, 8)}, tmp_path / "weights.pt")
    about = {"method": "taskres", "config": {}, "task": "mini-weather", "source": "mini-clip"}
    module = Module(trained={"residual": torch.zeros(5, 64)})
    labels = task_labels("mini-weather").described
    module.save(tmp_path / "module.safetensors", about | {"labels": labels, "shots": 1, "seed": 1})
    return tmp_path


@pytest.mark.parametrize(("command", "message"), MISTAKES)
def test_mistaken_command_is_one_line_and_writes_nothing(
    command: str, message: str, folder: Path
) -> None:
    with pytest.raises(CompatbenchError, match=message):
        invoke(*command.split())
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    assert files == {"taken.py", "module.safetensors", "weights.pt"}
    assert (folder / "taken.py").read_text() == "mine"


@pytest.mark.parametrize(("command", "message"), WORDS)
def test_usage_error_names_the_word(command: str, message: str, folder: Path) -> None:
    result = invoke(*command.split())
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
