"""The pages name commands that exist, and their Python code and the notebook run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import forget_files, output_of
from typer.main import get_command

from compatbench.cli.app import app
from compatbench.engine import compute
from compatbench.engine.compute import parse_retry
from compatbench.engine.order import Shard
from compatbench.extras.check.run_checks import check_methods

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"(?ms)^```{language}(?: [\w-]+)?\n(.*?)^```", text)


COMMANDS = sorted(
    {
        command.strip()
        for page in (REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *DOCS.glob("*.md"))
        for block in blocks(page, "sh")
        for command in re.findall(
            r"\bcompatbench ((?:'[^']*'|[^`'#&|>\n])+)", block.replace("\\\n", " ")
        )
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_its_options_are_known(command: str, tmp_path: Path) -> None:
    # The pages' folders do not exist here; where they matter they stand for any folder.
    words = [
        re.sub(r"(/(data|fast/dtd)|^cards)$", str(tmp_path), word) for word in shlex.split(command)
    ]
    output_of(*words, "--help")


def test_the_page_of_commands_names_every_one() -> None:
    table = (DOCS / "commands.md").read_text().split("\n\n")[2]
    named = re.findall(r"`([a-z-]+)`", " ".join(row.split("|")[1] for row in table.splitlines()))
    assert set(named) == set(get_command(app).commands)
    assert len(COMMANDS) > 40


@pytest.mark.parametrize("page", ["security.md", "reliability.md"])
def test_every_promise_names_a_test_that_there_is(page: str) -> None:
    text = (DOCS / page).read_text()
    assert len(re.findall(r"\btest_\w+", text)) > 15
    tests = "".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    assert {*re.findall(r"\b(test_\w+)\b(?!\.py)", text)} <= {*re.findall(r"def (test_\w+)", tests)}


def test_the_example_for_slurm_is_a_script_whose_options_are_known() -> None:
    script = DOCS / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8").replace("\\\n", " ")
    [command] = re.findall(r"^compatbench (.*)$", text, re.MULTILINE)
    words = [
        word.replace("$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT", "3/16")
        for word in shlex.split(command)
    ]
    output_of(*words, "--help")
    assert Shard.parse(words[words.index("--shard") + 1]) == Shard(3, 16)
    assert parse_retry(words[words.index("--retry") + 1])


@pytest.mark.slow
def test_the_code_of_the_python_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one worker where the page does not say how many, on some of the committed results."""
    (results := tmp_path / "results" / "mini").mkdir(parents=True)
    for name in ("zeroshot", "coop", "tip_adapter"):
        for path in (REPOSITORY / "results" / "mini").glob(f"{name}.*"):
            shutil.copy(path, results)
    (tmp_path / "mine.py").symlink_to(REPOSITORY / "methods" / "kgcoop.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compute, "count_cores", lambda: 1)
    forget_files()
    exec("\n".join(blocks(DOCS / "python.md", "python")), {})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text-input", "feature", "image-layers"])
def test_the_example_of_a_method_keeps_the_rules(kind: str, tmp_path: Path) -> None:
    files = [code for code in blocks(DOCS / "adding-a-method.md", "python") if code[:3] == '"""']
    [code] = [code for code in files if f'"{kind}"' in code]
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    outcomes = check_methods(str(tmp_path / "example.py"))
    assert outcomes.query("status != 'pass'")[["check", "reason"]].to_numpy().tolist() == []


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(DOCS / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    [ranking] = [cell for cell in notebook.cells if "results.ranking(" in cell.source]
    assert "Tip-Adapter" in ranking.outputs[-1]["data"]["text/plain"]
