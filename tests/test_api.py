"""``import compatbench as cb``: the functions behind the commands return data."""

from __future__ import annotations

import pydoc
import re
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from inspect import isfunction
from pathlib import Path

import pytest
import torch

import compatbench as cb
from compatbench.backbone import load_backbone
from compatbench.data.cards import suite_cards, suite_tasks, task_cards
from compatbench.data.task import load_task
from compatbench.method import load_module
from compatbench.method.registry import builtin_methods

REPOSITORY = Path(__file__).parents[1]


def test_public_functions_are_listed_and_documented() -> None:
    page = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
    listed: set[str] = set()
    for line in page.splitlines():
        if line.startswith("| `"):
            listed.update(re.findall(r"`(\w+)`", line.split("|")[1]))
    found: dict[str, object] = {}
    exec("from compatbench import *", found)
    public = {name for name in found if not name.startswith("_")}
    assert public == {*listed, "CompatbenchError", "Compute"}
    assert sorted(public) == dir(cb) == sorted(cb.__all__)
    for name in public:
        assert found[name].__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cb.nothing  # noqa: B018


def test_functions_are_not_replaced_by_packages_of_the_same_name() -> None:
    folders = {name for name in dir(cb) if find_spec(f"compatbench.{name}") is not None}
    assert folders == {"formats", "methods", "results", "tasks", "transfers"}
    for name in folders:
        import_module(f"compatbench.{name}")
        assert isfunction(getattr(cb, name))
        assert getattr(cb, name).__name__ == name
    shown = pydoc.render_doc(cb.results, renderer=pydoc.plaintext)
    assert "results(suite: 'str | SuiteCard' = 'mini'" in shown
    assert "rankings and what is missing" in shown

    # The modules of the folder are there, too, however they are imported.
    import compatbench.methods.coop as coop
    import compatbench.results.measures.measure_registry as measures
    from compatbench.results.measures.measure_registry import list_measures

    assert measures.list_measures is list_measures
    assert cb.results.measures.measure_registry is measures  # pyright: ignore[reportFunctionMemberAccess]
    assert coop.CoOp is builtin_methods().get("coop")
    assert isfunction(cb.results)


def test_lists_are_frames_with_one_row_per_name() -> None:
    assert cb.methods("coop,kg*")["name"].tolist() == ["coop", "kgcoop"]
    tasks = cb.tasks("mini-*").set_index("name")
    assert tasks.loc["mini-objects-mono", "kind"] == "variant of mini-objects"
    assert tasks.loc["mini-food", "test"] == task_cards.read("mini-food").counts["test"]
    assert {"mini-clip", "mini-eva-clip"} <= set(cb.backbones()["name"])
    assert {"mini", "smoke", "paper"} <= set(cb.suites()["name"])
    needs = cb.transfers().set_index("name")["needs"]
    assert needs.index[0] == "copied"
    assert needs["copied"] == "none"
    assert needs["words"] == "words"
    assert needs["kept"] == "old model"


def test_plan_counts_cells_and_estimates_time(tmp_path: Path) -> None:
    plan = cb.plan("mini", ["zeroshot", "coop"], seeds=[1, 2], out=tmp_path)
    tasks = len(suite_tasks(suite_cards.read("mini")))
    assert f"{3 * tasks} to do" in repr(plan)
    frame = plan.frame.set_index("method")
    assert frame.loc["zeroshot", "cells"] == tasks
    counts = frame.loc["coop", ["cells", "done", "to do", "missing"]].tolist()
    assert counts == [2 * tasks, 0, 2 * tasks, 0]
    assert frame.loc["coop", "seconds"] > frame.loc["zeroshot", "seconds"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_rankings_and_results_by_dataset_are_frames() -> None:
    results = cb.results("mini", out=REPOSITORY)
    ranking = results.ranking("mini-clip", "mini-eva-clip")
    assert ranking["h"][:20].is_monotonic_decreasing
    best = ranking.iloc[0]
    by_task = results.by_dataset("h", "mini-clip", "mini-eva-clip")
    assert by_task.loc[best["method"], "mean"] == pytest.approx(best["h"])
    through_words = results.ranking("mini-clip", "mini-eva-clip", transfer="words")
    assert "rosetta" in {*through_words["method"]} - {*ranking["method"]}


@pytest.mark.slow
def test_run_returns_results_and_resumes(tmp_path: Path) -> None:
    def run(events: list[str]):
        methods = ["zeroshot", "taskres"]
        options = {"out": tmp_path, "compute": cb.Compute(jobs=1)}
        return cb.run("smoke", methods, **options, on_event=lambda e: events.append(e.kind))

    first: list[str] = []
    second: list[str] = []
    results = run(first)
    assert results.failures == ()
    assert set(results.ranking("mini-clip", "mini-eva-clip")["method"]) == {"zeroshot", "taskres"}
    assert first.count("finished") == 2
    again = run(second)
    assert second == []
    assert again.frame.equals(results.frame)
    assert {*results.ranking()["method"]} == {"zeroshot", "taskres"}  # there is one upgrade
    assert results._repr_html_().count("<table") == 1

    part = cb.run("smoke", "taskres", seeds="1", transfers="copied", out=tmp_path)
    assert [*part.suite.methods] == ["taskres"]  # only the requested method
    other = cb.run("smoke", "taskres", seeds=2, out=tmp_path)
    assert {*other.ranking()["method"]} == {"taskres"}
    assert other.expected.seeds == (2,)
    fitted = cb.fit("taskres", "mini-weather", "mini-clip", shots=4, suite="smoke")
    stored = [load_module(path) for path in (tmp_path / "runs" / "modules").rglob("*.safetensors")]
    assert fitted.fingerprint in {module.fingerprint for module in stored}
    plain = cb.fit("taskres", "mini-weather", "mini-clip", shots=4)
    assert plain.fingerprint != fitted.fingerprint

    # A setting is tried in addition to the suite's, and leaves no row.
    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.csv")}
    config = {"alpha": 1.0, "recipe": {"lr": 0.5}}
    new = "taskres+alpha-1.0+recipe.lr-0.5"
    planned = cb.plan("smoke", "taskres", config=config, out=tmp_path)
    assert planned.frame.set_index("method")["to do"].to_dict() == {"taskres": 0, new: 1}
    tried = cb.run("smoke", "taskres", config=config, out=tmp_path, compute=cb.Compute(jobs=1))
    assert {*tried.ranking()["method"]} == {"taskres", new}
    assert {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.csv")} == before
    fitted = cb.fit("taskres", "mini-weather", "mini-clip", shots=4, suite="smoke", config=config)
    [cell] = [cell for cell in planned.cells if "+" in cell.name]
    module = load_module(next((tmp_path / "runs/modules").rglob(f"*{cell.fit_key}*")))
    assert module.fingerprint == fitted.fingerprint
    assert [*cb.results("smoke", out=tmp_path).suite.methods] == ["taskres", "zeroshot"]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_fit_shows_its_steps_on_a_terminal_and_nothing_in_a_pipe(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
    cb.fit("taskres", "mini-weather", "mini-clip", shots=1, suite="smoke")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ("fitting taskres on mini-weather" in shown.err) == terminal
    assert ("100%" in shown.err) == terminal


@pytest.mark.slow
def test_saved_module_evaluates_as_the_fitted_one(tmp_path: Path) -> None:
    module = cb.fit("tip_adapter", "mini-weather", "mini-clip", shots=4)
    found = cb.evaluate(module, "mini-eva-clip")
    assert found.images == task_cards.read("mini-weather").counts["test"]
    assert found.verdict in ("gains", "loses", "cannot tell")
    module.save(tmp_path / "module.safetensors")
    again = cb.evaluate(tmp_path / "module.safetensors", "mini-eva-clip")
    assert again.as_dict() == found.as_dict()
    rows = found.frame.set_index("backbone")
    assert rows.loc["mini-eva-clip", "accuracy"] == found.target.accuracy
    assert rows.loc["mini-clip", "gain"] == found.source.gain
    assert f"<td>{found.target.accuracy:.1f}</td>" in found._repr_html_()
    assert found.verdict in found._repr_html_()

    half = cb.evaluate(module, "mini-eva-clip", precision="bf16")
    assert half.as_dict()["precision"] == "bf16"
    assert found.as_dict()["precision"] == "fp32"
    backbone = load_backbone("mini-eva-clip", precision="bf16")
    task = load_task("mini-weather")
    pixels = []
    for sample in task.split("test")[:64]:
        pixels.append(backbone.preprocess(task.source.image(sample)))
    method = builtin_methods().get("tip_adapter")
    classify = method(method.Config()).attach(module, backbone, task.labels)
    expected = classify(backbone.encode_images(torch.stack(pixels))).softmax(-1).amax(-1)
    measured = half.target.predictions.confidence[:64]
    # Confidences are kept in half precision.
    assert float((measured - expected).abs().max()) < 3e-4
    assert float((found.target.predictions.confidence[:64] - expected).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda out: cb.fit("coop", "mini-food", "mini-clip", config={"contxt": 3}), "'contxt' of"),
        (
            lambda out: cb.fit("tip_adapter", "mini-food", "mini-clip", config={"btea": 1.0}),
            "setting 'btea' of .*: there is no such setting; did you mean 'beta'",
        ),
        (
            lambda out: cb.fit("coop", "mini-food", "mini-clip", config={"recipe": {"lrr": 0.01}}),
            "setting 'recipe.lrr' of .*; did you mean 'lr'",
        ),
        (
            lambda out: cb.fit("coop", "mini-food", "mini-clip", config={"recipe.lr": 0.01}),
            r"there is no such setting; write \{\"recipe\": \{\"lr\": 0.01\}\}$",
        ),
        (lambda out: cb.fit("coop", "mini-food", "mini-clip", shots=0), r"shots\): 0 is not valid"),
        (lambda out: cb.plan("mini", "coop", seeds=[], out=out), r"seeds\): the list is empty"),
        (
            lambda out: cb.plan("mini", "coop", seeds=[10**20], out=out),
            r"seeds\): 1000\d* is not valid",
        ),
        (lambda out: cb.run("mini", "coop", precision="fp8", out=out), "'precision' of suite 'mi"),
        (lambda out: cb.Compute(executor="slurm"), "'slurm': choose from local, ray"),
    ],
)
def test_mistakes_are_one_line(call, message: str, tmp_path: Path) -> None:
    with pytest.raises(cb.CompatbenchError, match=message):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_scripts_need_no_main_guard_around_run(tmp_path: Path) -> None:
    script = f"""
import compatbench as cb
done = cb.run("smoke", "zeroshot", out={str(tmp_path)!r}, compute=cb.Compute(jobs=1, timeout=600))
print("failures:", len(done.failures))
"""
    (tmp_path / "script.py").write_text(script)
    for name in ("-", str(tmp_path / "script.py")):
        command = [sys.executable, name]
        done = subprocess.run(command, input=script, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == ["failures: 0"]
        shutil.rmtree(tmp_path / "runs")
