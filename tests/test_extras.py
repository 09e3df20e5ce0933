"""Extras are self-contained: without one of them, or all, the rest of the program works."""

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
# Tests each package in a forked process that has already loaded the libraries.
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
    """Link the package into a folder, without some extras."""
    package = folder / "compatbench"
    (package / "extras").mkdir(parents=True)
    for path in ROOT.iterdir():
        if path.name != "extras":
            (package / path.name).symlink_to(path)
    for name in CONTENT:
        (package / name).symlink_to(ROOT.parents[1] / name)
    for name in RESULTS:
        (package / name).symlink_to(ROOT.parents[1] / "results" / name)
    for path in (ROOT / "extras").iterdir():
        if path.name not in extras:
            (package / "extras" / path.name).symlink_to(path)


def run_in(folder: Path, *command: str) -> str:
    """Return the output of a Python program that uses the package in a folder."""
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
def test_without_one_extra_the_others_work(tmp_path: Path) -> None:
    for extra in EXTRAS:
        make_package([extra], tmp_path / extra)
    (tmp_path / "here").mkdir()
    packages = [str(tmp_path / extra) for extra in EXTRAS]
    shown = run_in(tmp_path / "here", "-c", LOOK, *packages).splitlines()
    assert len(shown) == len(EXTRAS)
    registered: dict[str, set[str]] = {}
    for extra in EXTRAS:
        module = import_module(f"compatbench.extras.{extra}")
        registered[extra] = {*getattr(module, "FUNCTIONS", {})}
    for extra, line in zip(EXTRAS, shown, strict=True):
        package, *functions = line.split()
        assert Path(package).name == extra
        for other, names in registered.items():
            if other == extra:
                assert not names & {*functions}
            else:
                assert names <= {*functions}


@pytest.mark.slow
def test_without_any_extra_the_smoke_suite_runs(tmp_path: Path) -> None:
    make_package(EXTRAS, tmp_path)
    command = ["-m", "compatbench", "run", "--suite", "smoke", "--jobs", "1"]
    assert "wrote" in run_in(tmp_path, *command, "--methods", "zeroshot,taskres")
    assert (tmp_path / "results" / "smoke" / "taskres.csv").is_file()


@pytest.mark.parametrize("extra", EXTRAS)
def test_extra_registers_only_constants(extra: str) -> None:
    """Their offers are then known without importing their code."""
    package = import_module(f"compatbench.extras.{extra}")
    for kind, value in vars(package).items():
        if kind.isupper():
            assert isinstance(value, list if kind == "COMMANDS" else dict)
            assert f"    {kind} " in (plugins.__doc__ or "")
    source = Path(package.__file__ or "").read_text(encoding="utf-8")
    for line in source.splitlines():
        assert not line.startswith(("import ", "from "))


@pytest.mark.parametrize("kind", ["FUNCTIONS", "SECTIONS", "FIGURES"])
def test_everything_that_extras_register_exists(kind: str) -> None:
    for place in offered(kind).values():
        assert load(place) is not None


def test_two_extras_cannot_offer_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    offered.cache_clear()
    package = import_module("compatbench.extras.studies")
    monkeypatch.setattr(package, "FUNCTIONS", {"diagnose": "claims:analyze_claims"})
    with pytest.raises(ValueError, match=r"'diagnose' is offered twice: .*doctor.*studies"):
        offered("FUNCTIONS")
    offered.cache_clear()
