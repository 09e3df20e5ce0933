"""Runs of a part of a suite, and of a suite of one's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compatbench import api
from compatbench.data.cards import suite_cards
from compatbench.engine.plan import plan_cells
from compatbench.method.registry import MethodRegistry, builtin_methods

from .conftest import Run

PART = ["--methods", "tip_adapter", "--tasks", "mini-animals", "--seeds", "1"]
MINE = """\
from dataclasses import replace

import helper
from compatbench.methods.zeroshot import ZeroShot


class Mine(ZeroShot):
    \"\"\"Mine.\"\"\"

    card = replace(ZeroShot.card, name="mine", title="Mine")
"""


@pytest.fixture
def own_suite(tmp_path: Path) -> Path:
    """A suite with a method file and the file that it imports, in a folder of their own."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "mine.py").write_text(MINE)
    (folder / "helper.py").write_text("SCALE = 1\n")
    (folder / "own.yaml").write_text(
        "name: own\ntitle: Own\nextends: mini\nplugins: [./mine.py]\n"
        "tasks: [mini-animals]\nseeds: [1]\ncompare: [mine]\n"
    )
    return folder / "own.yaml"


@pytest.mark.slow
def test_a_part_of_a_suite_shows_its_numbers_and_other_shots_are_kept(
    compatbench: Run, tmp_path: Path
) -> None:
    eight = compatbench("run", *PART, "--shots", "8", cwd=tmp_path)
    whole = compatbench("run", *PART, cwd=tmp_path)
    for result, shots in ((eight, "8 shots"), (whole, "16 shots")):
        assert result.returncode == 0, result.stderr
        [row, *_] = [line for line in result.stdout.splitlines() if "Tip-Adapter" in line]
        assert "–" not in row
        assert row.split()[0] == "1"
        assert shots in result.stdout
    assert set(api.results("mini", tmp_path).frame["shots"]) == {8, 16}


@pytest.mark.slow
def test_a_suite_of_one_s_own_runs_and_an_edited_neighbour_is_to_do_again(
    compatbench: Run, own_suite: Path, tmp_path: Path
) -> None:
    command = ["--suite", str(own_suite)]
    result = compatbench("run", *command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Mine" in result.stdout
    assert "all done" in compatbench("plan", *command, cwd=tmp_path).stdout
    (own_suite.parent / "helper.py").write_text("SCALE = 2\n")
    assert "1 to do" in compatbench("plan", *command, cwd=tmp_path).stdout


def test_methods_fit_a_terminal_of_80_columns(compatbench: Run, tmp_path: Path) -> None:
    result = compatbench("list", "methods", cwd=tmp_path, COLUMNS="80")
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    shown = {line.split(" ")[0] for line in lines}
    assert set(builtin_methods().names()) <= shown  # no name is cut or wrapped


def test_a_renamed_method_and_a_moved_file_keep_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = suite_cards.read("smoke")

    def key(registry: MethodRegistry, name: str) -> str:
        [cell] = plan_cells(suite, registry, [name])
        return cell.key

    before = key(builtin_methods(), "taskres")
    cls = builtin_methods().get("taskres")
    monkeypatch.setattr(cls, "__module__", "compatbench.methods.elsewhere")
    assert key(builtin_methods(), "taskres") == before
    monkeypatch.setattr(cls, "card", replace(cls.card, name="residual", was="taskres"))
    renamed = MethodRegistry()
    renamed.classes["residual"] = cls
    suite = suite.model_copy(update={"compare": "all", "methods": {}})
    assert key(renamed, "residual") == before
