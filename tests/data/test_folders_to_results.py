"""From folders on a disk to results: the doctor, the plan and a run, on each layout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from command_line import invoke
from data.conftest import SetUp
from data.trees import Sizes, Tree

from compatbench.errors import CompatbenchError
from compatbench.results.store import read_results

METHODS = "zeroshot,tip_adapter"
ONE = ("--jobs", "1")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPATBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def write_suite(folder: Path, *tasks: str) -> str:
    """A suite of one shot and two steps."""
    suite = {"name": "whole", "title": "Whole", "tasks": list(tasks), "shots": [1], "seeds": [1]}
    suite |= {"upgrades": [["mini-clip", "mini-eva-clip"]], "training": {"max_steps": 2}}
    (folder / "whole.yaml").write_text(yaml.safe_dump(suite), encoding="utf-8")
    return str(folder / "whole.yaml")


def refused(*arguments: str) -> str:
    """What a command says when it refuses, in one line."""
    with pytest.raises(CompatbenchError) as error:
        invoke(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.slow
def test_datasets_run_from_their_folders_to_the_leaderboard(
    data: dict[str, Tree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPATBENCH_DATA", "/nowhere")  # --data-root comes first
    names = ["eurosat", "fgvc_aircraft", "dtd"]
    suite = write_suite(tmp_path, *names)
    root = ["--data-root", str(data["dtd"].folder.parent)]
    doctor = invoke("doctor", "--suite", suite, *root)
    assert doctor.exit_code == 0, doctor.output
    assert all(f"found {name} " in doctor.output for name in names)
    run = invoke("run", "--suite", suite, "--methods", METHODS, "--out", str(tmp_path), *ONE, *root)
    assert run.exit_code == 0, run.output
    for method in read_results(tmp_path / "results" / "whole").methods.values():
        measured = {(row.test_set, row.backbone): row for row in method.rows.itertuples()}
        assert set(measured) == {(t, b) for t in names for b in ("mini-clip", "mini-eva-clip")}
        for (test_set, _), row in measured.items():
            assert (row.status, row.total) == ("ok", data[test_set].counts["test"])


@pytest.mark.slow
def test_a_damaged_or_unreadable_dataset_is_one_line_of_run_plan_and_doctor(
    set_up: SetUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, allowed = set_up("eurosat")["eurosat"].folder, os.access
    suite = write_suite(tmp_path, "eurosat")
    arguments = ["--suite", suite, "--methods", METHODS, "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda p, mode: Path(p) != folder and allowed(p, mode))
        assert str(folder) in refused("run", *arguments)
    (folder / "split_zhou_EuroSAT.json").unlink()
    message = refused("run", *arguments)
    assert "split_zhou_EuroSAT.json" in message
    assert "compatbench doctor" in message
    assert not (tmp_path / "out").exists()
    doctor = invoke("doctor", "--suite", suite)
    assert (doctor.exit_code, "wrong eurosat" in doctor.output) == (1, True)
    assert "fix: " in doctor.output
    assert "missing images of eurosat" in invoke("plan", *arguments).output


@pytest.mark.slow
def test_results_stay_when_images_are_damaged_or_gone(
    set_up: SetUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = set_up("eurosat", sizes=Sizes(pictures=True))["eurosat"]
    suite = write_suite(tmp_path, "mini-weather", "eurosat")
    arguments = ["--suite", suite, "--out", str(tmp_path), "--methods", "zeroshot"]
    assert invoke("run", *arguments, *ONE, "--tasks", "mini-weather").exit_code == 0
    results = tmp_path / "results" / "whole" / "zeroshot.csv"
    before = results.read_bytes()
    for name, _ in tree.rows["test"]:
        image = tree.folder / "2750" / name
        image.write_bytes(image.read_bytes()[:200])
    assert ".jpg" in refused("run", *arguments, *ONE)
    assert results.read_bytes() == before
    monkeypatch.setenv("COMPATBENCH_DATA", str(tmp_path / "nowhere"))
    for out in (tmp_path, tmp_path / "elsewhere"):  # where weather was measured, and anew
        run = invoke("run", *arguments, *ONE, "--skip-missing", "--out", str(out))
        assert run.exit_code == 0
        assert (out / "results" / "whole" / "zeroshot.csv").read_bytes() == before
        assert "missing images of eurosat" in run.output
        assert "no mean is given" in run.output
