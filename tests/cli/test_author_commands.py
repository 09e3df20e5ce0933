"""Commands for authors and users of modules: check, new-method, evaluate, list modules."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import invoke, output_of
from engine.running import write_methods

from compatbench.cli import main
from compatbench.cli.new_method import fill_template, find_checkout
from compatbench.data.refusals import find_refusal, remember_refusal
from compatbench.errors import CompatbenchError
from compatbench.method import Module, load_module
from compatbench.method.registry import MethodRegistry, builtin_methods

SMOKE = ("--suite", "smoke", "--methods", "zeroshot,taskres", "--jobs", "1")


@pytest.fixture(autouse=True)
def _fresh_registry() -> None:
    """Forget the files that the test before has loaded."""
    builtin_methods.cache_clear()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a smoke run of two methods."""
    folder = tmp_path_factory.mktemp("runs")
    assert invoke("run", *SMOKE, "--out", str(folder)).exit_code == 0
    return folder


@pytest.fixture
def module(runs: Path) -> Path:
    """A module of TaskRes."""
    paths = runs.glob("runs/modules/*/*.safetensors")
    return next(path for path in paths if load_module(path).about["method"] == "taskres")


def test_operating_system_errors_are_one_line(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["compatbench", "new-task", "x" * 300])
    with pytest.raises(SystemExit, match="2"), warnings.catch_warnings():
        main()
    assert capsys.readouterr().err == f"compatbench: cannot use {'x' * 300}: File name too long\n"


@pytest.mark.slow
def test_check_lists_failures_of_several_methods_and_exits_with_1(tmp_path: Path) -> None:
    bad = fill_template("bad_one").replace("scale * features + shift", "scale * features.mul_(2)")
    (tmp_path / "bad_one.py").write_text(bad)
    names = f"{tmp_path / 'bad_one.py'},zeroshot"
    result = invoke("check", names, "--only", "inputs-unchanged,card")
    assert result.exit_code == 1
    assert "bad_one  inputs-unchanged  fail" in result.output
    assert "1 of 2 methods pass" in result.output
    assert find_refusal(identify(tmp_path / "bad_one.py")).startswith("check 'inputs-unchanged': ")


def identify(path: Path) -> str:
    """Return the identity of the code of the method in a file."""
    registry = MethodRegistry()
    [name] = registry.add_file(path)
    return registry.identify(name)[0]


@pytest.mark.slow
def test_new_method_passes_its_checks_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "wrote my_affine.py" in invoke("new-method", "my_affine").output
    wanted = ("run", "--suite", "smoke", "--methods", "./my_affine.py", "--jobs", "1")
    remember_refusal(identify(Path("my_affine.py")), "check 'no-image': it looks at one")
    words = " ".join(invoke(*wanted).output.split())
    assert "My Affine: refused by check 'no-image': it looks at one" in words
    outcomes = json.loads(output_of("check", "./my_affine.py", "--json"))
    statuses = {outcome["check"]: outcome["status"] for outcome in outcomes}
    assert statuses["same-seed"] == "pass"
    builtin_methods.cache_clear()
    run = invoke(*wanted)
    assert run.exit_code == 0
    assert "My Affine" in run.output
    assert "refused" not in run.output


def test_new_method_in_a_checkout_is_the_two_files_of_a_pull_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("methods", "benchmark/compatbench"):
        (tmp_path / package).mkdir(parents=True)
        (tmp_path / package / "__init__.py").touch()
    monkeypatch.chdir(tmp_path / "benchmark")
    assert find_checkout(Path.cwd()) == tmp_path
    shown = invoke("new-method", "my_affine").output
    assert "compatbench check my_affine" in shown
    assert "pytest tests/methods/formulas/my_affine.py" in shown
    written = {"methods/my_affine.py", "tests/methods/formulas/my_affine.py"}
    for name in written:
        assert "My Affine" in (tmp_path / name).read_text()
    (tmp_path / "methods" / "my_affine.py").unlink()
    with pytest.raises(CompatbenchError, match=r"formulas/my_affine\.py exists.*another name"):
        invoke("new-method", "my_affine")
    assert not (tmp_path / "methods" / "my_affine.py").exists()  # both, or neither


@pytest.mark.slow
def test_evaluate_on_the_same_model_reports_no_regressions(module: Path) -> None:
    output = invoke("evaluate", module, "--target", "mini-clip", "--verbose").output
    assert "0.0 % of the images were right before and are wrong now" in output


@pytest.mark.slow
def test_evaluate_reports_a_module_that_is_not_transferable(module: Path, tmp_path: Path) -> None:
    only = "if backbone.name != 'mini-clip': raise NotTransferable('it knows one backbone')"
    write_methods(tmp_path / "picky.py", attach=only, picky="pass")
    saved = load_module(module)
    saved.save(tmp_path / "m.safetensors", saved.about | {"method": "picky", "config": {}})
    wanted = ["evaluate", str(tmp_path / "m.safetensors"), "--target", "mini-eva-clip"]
    with pytest.raises(CompatbenchError, match=r"method 'picky', which is not here.*--methods"):
        invoke(*wanted)
    output = invoke(*wanted, "--methods", str(tmp_path / "picky.py")).output
    assert "cannot be attached (it knows one backbone); retrain it" in output
    builtin_methods.cache_clear()
    found = json.loads(invoke(*wanted, "--methods", str(tmp_path / "picky.py"), "--json").output)
    assert (found["status"], found["h"]) == ("not transferable", None)


@pytest.mark.slow
def test_evaluate_refuses_modules_that_it_cannot_use(module: Path, tmp_path: Path) -> None:
    saved = load_module(module)
    twice = Module({"residual": torch.cat([saved["residual"]] * 2)})
    for given, about, message in (
        (saved, {}, "does not say how it was fitted"),
        (saved, saved.about | {"config": {"gone": 1}}, "setting 'gone' of 'taskres', with which"),
        (twice, saved.about, "does not fit its own source 'mini-clip'"),
    ):
        given.save(tmp_path / "m.safetensors", about)
        with pytest.raises(CompatbenchError, match=message):
            invoke("evaluate", tmp_path / "m.safetensors", "--target", "mini-clip")


@pytest.mark.slow
def test_results_of_a_run_are_listed(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)

    def json_of(*words: object) -> Any:
        return json.loads(invoke(*words, "--json").stdout)

    ranked = json_of("run", *SMOKE)
    assert {row["method"] for row in ranked} == {"zeroshot", "taskres"}
    assert {row["upgrade"] for row in ranked} == {"mini-clip → mini-eva-clip"}
    cells = json_of("store runs ls")
    files = [Path(row["file"]) for row in json_of("list", "modules")]
    assert {row["key"] for row in cells} == {file.stem for file in files}
    assert sum(row["entries"] for row in json_of("store cache ls")) > 0
    for command in ("store runs ls", "list modules"):
        *lines, last = invoke(command, COLUMNS="80").output.splitlines()
        assert max(map(len, lines)) <= 80
        assert {"taskres", "zeroshot"} <= set(" ".join(lines).split())
    # The last line names the file of the last module.
    [path] = runs.glob(last.split()[-1])
    assert path.stem.startswith(lines[-1].split()[-1])
