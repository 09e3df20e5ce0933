"""What is broken in folders on a disk: the doctor, the plan and a run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml
from command_line import forget_files, invoke
from data.trees import picture, write_folders

from compatbench.errors import CompatbenchError
from compatbench.results.result_files import read_results

METHODS = "zeroshot,tip_adapter"
ONE = ("--jobs", "1")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPATBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def write_suite(folder: Path, *tasks: str, shots: int = 1) -> str:
    """A suite of two steps."""
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
def test_what_is_broken_costs_its_dataset_and_what_was_measured_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A truncated image to learn from, a class folder that is gone, and an empty test image."""
    tasks = ("sound", "cut", "bare", "empty")
    for name in tasks:
        (tmp_path / f"{name}.yaml").write_text(CARD.format(name=name))
        write_folders(write_folders(tmp_path / name, 4, "train"), 2, "test")
    monkeypatch.setenv("COMPATBENCH_CARDS", str(tmp_path))
    cut, empty = tmp_path / "cut/train/Alpine_Ibex/2.png", tmp_path / "empty/test/redFox/1.png"
    cut.write_bytes(cut.read_bytes()[:200])
    empty.write_bytes(b"")
    shutil.rmtree(tmp_path / "bare/test/redFox")
    # Where nothing can be measured, nothing is begun.
    out, sound, allowed = tmp_path / "out", tmp_path / "sound", os.access
    alone = ["--suite", write_suite(tmp_path, "sound"), "--methods", METHODS]
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda p, mode: Path(p) != sound and allowed(p, mode))
        with pytest.raises(CompatbenchError, match=f"{sound}"):
            invoke("run", *alone, "--out", out)
    write_suite(tmp_path, "bare")
    with pytest.raises(CompatbenchError, match=r"has no folder 'redFox'.*compatbench store doctor"):
        invoke("run", *alone, "--out", out)
    assert not out.exists()
    doctor = invoke("store doctor", *alone[:2])
    assert (doctor.exit_code, "wrong bare" in doctor.output) == (1, True)
    assert "fix: " in doctor.output
    assert "broken images of bare" in invoke("plan", *alone, "--out", out).output
    run = ["run", "--suite", write_suite(tmp_path, *tasks, shots=4), "--methods", METHODS, *ONE]
    result = invoke(*run, "--out", tmp_path)
    assert result.exit_code == 1
    named = [line for line in result.output.splitlines() if line.startswith("broken ")]
    assert [line.split(": ")[0] for line in named] == [
        f"broken images of {name}" for name in ("bare", "cut", "empty")
    ]
    assert "has no folder 'redFox'" in named[0]
    assert f"{cut} cannot be decoded" in named[1]
    assert f"{empty} is empty" in named[2]
    assert "6 of 8 cells failed" in result.output
    methods = read_results(tmp_path / "results" / "whole").methods
    for method in methods.values():
        rows, done = method.rows, method.rows["status"] == "ok"
        assert len(rows) == 2 * len(tasks)  # on two backbones
        assert set(rows["task"][done]) == {"sound"}
        assert rows["reason"][~done].str.startswith("BrokenImages: ").all()

    doctor = invoke("store doctor", "--suite", run[2], "--deep")
    assert doctor.exit_code == 1
    assert doctor.output.count("1 of 12 images cannot be used") == 2
    assert all(doctor.output.count(str(path)) == 1 for path in (cut, empty))

    # What is mended is measured, and what breaks afterwards keeps its rows.
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
    for method in read_results(tmp_path / "results" / "whole").methods.values():
        done = method.rows["status"] == "ok"
        assert set(method.rows["task"][done]) == {"sound", "cut", "bare"}
        assert done.sum() == 6
