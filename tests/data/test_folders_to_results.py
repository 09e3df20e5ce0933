"""Broken images in folders: the doctor, the plan and a run report them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml
from command_line import forget_files, invoke
from data.trees import picture, write_folders

import compatbench as cb
from compatbench.errors import CompatbenchError
from compatbench.results.result_files import ResultFiles

METHODS = "zeroshot,tip_adapter"
ONE = ("--jobs", "1")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPATBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def write_suite(folder: Path, *tasks: str, shots: int = 1) -> str:
    """Write a suite that trains for two steps, and return its path."""
    suite = {"name": "whole", "title": "Whole", "tasks": list(tasks)}
    suite |= {"shots": [shots], "seeds": [1]}
    suite |= {"upgrades": [["mini-clip", "mini-eva-clip"]], "training": {"max_steps": 2}}
    (folder / "whole.yaml").write_text(yaml.safe_dump(suite), encoding="utf-8")
    return str(folder / "whole.yaml")


CARD = """\
name: {name}
title: Pets
classes: [Alpine_Ibex, redFox]
templates: ["a {name} photo of a {{}}."]
source: {{kind: class-folders, folder: {name}, train: train, test: test}}
counts: {{train: 8, test: 4}}
licence: none
"""


@pytest.mark.slow
def test_broken_images_cost_only_their_dataset_and_measured_rows_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A truncated image to learn from, a class folder that is gone, and an empty test image."""
    tasks = ("sound", "cut", "bare", "empty")
    for name in tasks:
        (tmp_path / f"{name}.yaml").write_text(CARD.format(name=name))
        write_folders(write_folders(tmp_path / name, 4, "train"), 2, "test")
    monkeypatch.setenv("COMPATBENCH_CARDS", str(tmp_path))
    cut = tmp_path / "cut/train/Alpine_Ibex/2.png"
    empty = tmp_path / "empty/test/redFox/1.png"
    cut.write_bytes(cut.read_bytes()[:200])
    empty.write_bytes(b"")
    shutil.rmtree(tmp_path / "bare/test/redFox")
    # A run that can measure nothing does not start.
    out = tmp_path / "out"
    sound = tmp_path / "sound"
    allowed = os.access
    alone = ["--suite", write_suite(tmp_path, "sound"), "--methods", METHODS]
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda p, mode: Path(p) != sound and allowed(p, mode))
        with pytest.raises(CompatbenchError, match=f"{sound}"):
            cb.run(alone[1], METHODS, out=out, compute=cb.Compute(executor="here"))
    write_suite(tmp_path, "bare")
    with pytest.raises(CompatbenchError, match=r"has no folder 'redFox'.*compatbench store doctor"):
        invoke("run", *alone, "--out", out)
    assert not out.exists()
    doctor = invoke("store doctor", *alone[:2])
    assert doctor.exit_code == 1
    assert "wrong bare" in doctor.output
    assert "fix: " in doctor.output
    assert "broken images of bare" in invoke("plan", *alone, "--out", out).output
    run = ["run", "--suite", write_suite(tmp_path, *tasks, shots=4), "--methods", METHODS, *ONE]
    result = invoke(*run, "--out", tmp_path)
    assert result.exit_code == 1
    named = [line for line in result.output.splitlines() if line.startswith("broken ")]
    expected = {
        "bare": "has no folder 'redFox'",
        "cut": f"{cut} cannot be decoded",
        "empty": f"{empty} is empty",
    }
    for line, (name, reason) in zip(named, expected.items(), strict=True):
        assert line.startswith(f"broken images of {name}: ")
        assert reason in line
    assert "6 of 8 cells failed" in result.output
    for method in ResultFiles(tmp_path).read_methods("whole").values():
        rows = method.rows
        done = method.rows["status"] == "ok"
        assert len(rows) == 2 * len(tasks)  # on two backbones
        assert set(rows["task"][done]) == {"sound"}
        assert rows["reason"][~done].str.startswith("BrokenImages: ").all()

    doctor = invoke("store doctor", "--suite", run[2], "--deep")
    assert doctor.exit_code == 1
    assert doctor.output.count("1 of 12 images cannot be used") == 2
    for path in (cut, empty):
        assert doctor.output.count(str(path)) == 1

    # Repaired tasks are measured, and those that break afterwards keep their rows.
    cut.write_bytes(picture(0, 2, "PNG"))
    shutil.copytree(tmp_path / "sound/test/redFox", tmp_path / "bare/test/redFox")
    forget_files()
    invoke(*run, "--out", tmp_path)
    shutil.rmtree(tmp_path / "bare/train/Alpine_Ibex")
    (tmp_path / "cut/train/redFox/1.png").unlink()
    shutil.rmtree(tmp_path / "sound")
    forget_files()
    with pytest.raises(CompatbenchError, match="there is no folder"):
        invoke(*run, "--out", tmp_path)
    assert invoke(*run, "--out", tmp_path, "--skip-missing").exit_code == 1
    for method in ResultFiles(tmp_path).read_methods("whole").values():
        done = method.rows["status"] == "ok"
        assert set(method.rows["task"][done]) == {"sound", "cut", "bare"}
        assert done.sum() == 6
