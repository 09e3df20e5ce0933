"""Extras are whole: without the folder of one, or of all, the rest of the program works."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from compatbench import plugins
from compatbench.plugins import ROOT, load, offered

CONTENT = {"formats", "methods", "tasks", "transfers"}
RESULTS = {"published"}
EXTRAS = sorted(path.parent.name for path in (ROOT / "extras").glob("*/__init__.py"))
# Looks at each package in a process of its own, which has loaded the libraries.
LOOK = """
import os, sys
import open_clip, pandas, pydantic, typer
for folder in sys.argv[1:]:
    if not os.fork():
        sys.path.insert(0, folder)
        from command_line import invoke
        import compatbench
        assert invoke("--help").exit_code == 0
        planned = invoke("plan", "--suite", "smoke", "--methods", "zeroshot")
        assert planned.exit_code == 0, planned.output
        assert compatbench.__path__ == [f"{folder}/compatbench"]
        print(folder, *dir(compatbench), flush=True)
        os._exit(0)
    os.wait()
"""


def make_package(extras: list[str], folder: Path) -> None:
    """The package, in a folder, without some extras."""
    package = folder / "compatbench"
    (package / "extras").mkdir(parents=True)
    places = {path.name: path for path in ROOT.iterdir() if path.name != "extras"}
    places |= {name: ROOT.parents[1] / name for name in CONTENT}
    places |= {name: ROOT.parents[1] / "results" / name for name in RESULTS}
    for name, path in places.items():
        (package / name).symlink_to(path)
    for path in (ROOT / "extras").iterdir():
        if path.name not in extras:
            (package / "extras" / path.name).symlink_to(path)


def run_in(folder: Path, *command: str) -> str:
    """What a Python program prints, for which the package in a folder is ours."""
    paths = os.pathsep.join([str(folder), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_without_an_extra_the_others_are_there(tmp_path: Path) -> None:
    for extra in EXTRAS:
        make_package([extra], tmp_path / extra)
    (tmp_path / "here").mkdir()
    shown = run_in(tmp_path / "here", "-c", LOOK, *(str(tmp_path / extra) for extra in EXTRAS))
    offered = {Path(line.split()[0]).name: {*line.split()[1:]} for line in shown.splitlines()}
    assert [*offered] == EXTRAS
    registered = {
        extra: {*getattr(import_module(f"compatbench.extras.{extra}"), "FUNCTIONS", {})}
        for extra in EXTRAS
    }
    for extra, names in offered.items():
        others = set().union(*(registered[other] for other in EXTRAS if other != extra))
        assert others <= names
        assert not registered[extra] & names


@pytest.mark.slow
def test_without_any_extra_the_smoke_suite_runs(tmp_path: Path) -> None:
    make_package(EXTRAS, tmp_path)
    command = ["-m", "compatbench", "run", "--suite", "smoke", "--jobs", "1"]
    assert "wrote" in run_in(tmp_path, *command, "--methods", "zeroshot,taskres")
    assert (tmp_path / "results" / "smoke" / "taskres.csv").is_file()


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_registers_constants_alone(extra: str) -> None:
    """So that what it offers is known without importing it."""
    package = import_module(f"compatbench.extras.{extra}")
    for kind in (name for name in vars(package) if name.isupper()):
        assert isinstance(getattr(package, kind), list if kind == "COMMANDS" else dict)
        assert f"    {kind} " in (plugins.__doc__ or "")
    source = Path(package.__file__ or "").read_text(encoding="utf-8")
    assert [line for line in source.splitlines() if line.startswith(("import ", "from "))] == []


@pytest.mark.parametrize("kind", ["FUNCTIONS", "SECTIONS", "FIGURES"])
def test_every_place_that_an_extra_registers_is_there(kind: str) -> None:
    for place in offered(kind).values():
        assert load(place) is not None


def test_two_may_not_offer_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    offered.cache_clear()
    package = import_module("compatbench.extras.studies")
    monkeypatch.setattr(package, "FUNCTIONS", {"diagnose": "claims:analyze_claims"})
    with pytest.raises(ValueError, match=r"'diagnose' is offered twice: .*doctor.*studies"):
        offered("FUNCTIONS")
    offered.cache_clear()
