"""Wrong input ends in one clear line and exit code 2, never in a traceback."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from compatbench.files.project_folders import tasks_folder

from .conftest import Run


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    """A copy of the tasks folder that a test may spoil."""
    folder = tmp_path / "tasks"
    shutil.copytree(tasks_folder(), folder)
    return folder


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "kgcop"], "no method named 'kgcop'; did you mean kgcoop"),
        (["--suite", "mimi"], "no suite named 'mimi'; did you mean mini"),
        (["--tasks", "mini-animal"], "no task in this suite named 'mini-animal'"),
        (["--methods", "./nowhere.py"], "method file nowhere.py does not exist"),
        (["--methods", "all,!*"], "leaves no method"),
        (["--seeds", "one"], "seeds: 'one': Input should be a valid integer"),
        (["--shots", "0"], "shots: '0': Input should be greater than or equal to 1"),
        (["--seeds", "99999999999999999999"], "Input should be less than or equal to 4294967295"),
        (["--shots", "99999"], "--shots '99999': no task here has so many images per class"),
        (["--methods", ""], "--methods '' names no method"),
        (["--device", "gpu"], "--device 'gpu' cannot be used here"),
    ],
)
def test_wrong_names_and_numbers(
    compatbench: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = compatbench("run", *arguments, cwd=tmp_path)
    expect_one_line(result, message)
    assert not (tmp_path / "results" / "mini").exists()


def test_a_method_file_with_a_syntax_error(compatbench: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("x = 1\ndef fit(:\n")
    result = compatbench("run", "--methods", "./bad.py", cwd=tmp_path)
    expect_one_line(result, "bad.py:2: SyntaxError")


def test_a_method_file_that_is_no_text(compatbench: Run, tmp_path: Path) -> None:
    (tmp_path / "binary.py").write_bytes(b"\x80\x81\x00")
    result = compatbench("run", "--methods", "./binary.py", cwd=tmp_path)
    expect_one_line(result, "binary.py: SyntaxError")


def test_a_folder_in_place_of_a_module(compatbench: Run, tmp_path: Path) -> None:
    result = compatbench("evaluate", ".", "--backbone", "mini-eva-clip", cwd=tmp_path)
    expect_one_line(result, "is a folder; give a module's file")


@pytest.mark.slow
def test_a_device_is_checked_when_nothing_is_to_do(compatbench: Run, tmp_path: Path) -> None:
    options = ["--suite", "smoke", "--methods", "zeroshot"]
    assert compatbench("run", *options, cwd=tmp_path).returncode == 0
    for more in ([], ["--executor", "ray"]):
        result = compatbench("run", *options, *more, "--device", "tpu", cwd=tmp_path)
        expect_one_line(result, "--device 'tpu'")


def test_a_method_file_without_a_method(compatbench: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    result = compatbench("run", "--methods", "./empty.py", cwd=tmp_path)
    expect_one_line(result, "empty.py defines no method")


def test_a_method_name_taken_twice_names_both_files(compatbench: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from compatbench.method import Method, MethodCard\n"
        "class Mine(Method):\n"
        "    card = MethodCard('coop', 'CoOp', 'none', 'classifier', 'a second CoOp')\n"
    )
    result = compatbench("run", "--methods", "./mine.py", cwd=tmp_path)
    expect_one_line(result, "method name 'coop' is taken twice")
    assert "coop.py" in result.stderr
    assert "mine.py" in result.stderr


def test_a_card_with_a_missing_field(compatbench: Run, tmp_path: Path, cards: Path) -> None:
    spoil(cards / "suites" / "smoke.yaml", "shots: [4]\n", "")
    result = compatbench("run", "--suite", "smoke", cwd=tmp_path, COMPATBENCH_TASKS=str(cards))
    expect_one_line(result, "smoke.yaml:1: field 'shots' is missing")


def test_a_card_with_an_unknown_field(compatbench: Run, tmp_path: Path, cards: Path) -> None:
    spoil(cards / "suites" / "smoke.yaml", "seeds: [1]", "seeds: [1]\nsedes: [2]")
    result = compatbench("run", "--suite", "smoke", cwd=tmp_path, COMPATBENCH_TASKS=str(cards))
    expect_one_line(result, "field 'sedes' is not known")


def test_a_setting_that_the_method_does_not_know(
    compatbench: Run, tmp_path: Path, cards: Path
) -> None:
    with (cards / "suites" / "smoke.yaml").open("a") as file:
        file.write("methods:\n  coop:\n    contxt_length: 4\n")
    result = compatbench("run", "--suite", "smoke", cwd=tmp_path, COMPATBENCH_TASKS=str(cards))
    expect_one_line(result, "setting 'contxt_length' of method 'coop'")


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_damaged_weights_file(compatbench: Run, tmp_path: Path, cards: Path, jobs: str) -> None:
    path = cards / "mini" / "mini-eva-clip.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = compatbench(
        "run",
        *["--suite", "smoke", "--methods", "zeroshot,taskres", "--jobs", jobs],
        cwd=tmp_path,
        COMPATBENCH_TASKS=str(cards),
    )
    expect_one_line(result, "mini-eva-clip.safetensors is damaged or was replaced")


def test_a_damaged_sheet_of_drawings(compatbench: Run, tmp_path: Path, cards: Path) -> None:
    for path in (cards / "mini" / "drawings").glob("*.webp"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    result = compatbench(
        "run",
        *["--suite", "smoke", "--methods", "zeroshot"],
        cwd=tmp_path,
        COMPATBENCH_TASKS=str(cards),
        COMPATBENCH_CACHE=str(tmp_path / "cache"),
    )
    expect_one_line(result, ".webp is damaged")


def test_weights_of_another_architecture(compatbench: Run, tmp_path: Path, cards: Path) -> None:
    spoil(cards / "backbones" / "mini-eva-clip.yaml", "config: mini-eva-clip", "config: mini-clip")
    result = compatbench(
        "run",
        *["--suite", "smoke", "--methods", "zeroshot"],
        cwd=tmp_path,
        COMPATBENCH_TASKS=str(cards),
    )
    expect_one_line(result, "the weights do not fit the architecture")


def test_a_broken_results_file_is_named_with_its_line(
    compatbench: Run, smoke: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(smoke, folder)
    path = folder / "results" / "smoke" / "coop.csv"
    path.write_text(path.read_text().replace(",ok,", ",fine,", 1))
    result = compatbench("run", "--suite", "smoke", cwd=folder)
    expect_one_line(result, "coop.csv:2: 'status'")


def test_results_of_another_version_stop_a_run_before_its_work(
    compatbench: Run, tmp_path: Path
) -> None:
    path = tmp_path / "results" / "other" / "coop.csv"
    path.parent.mkdir(parents=True)
    path.write_text("method,task\n")
    path.with_suffix(".json").write_text(
        '{"schema_version": 1, "method": {"name": "coop", "title": "", "paper": "", "depth":'
        ' "none", "inserts": []}, "config": {}, "differs": {}, "provenance": {}}'
    )
    result = compatbench("run", "--suite", "smoke", "--methods", "zeroshot", cwd=tmp_path)
    expect_one_line(result, "coop.csv:1: the columns must be")
    assert not (tmp_path / "runs" / "cells").exists()


def test_a_folder_that_cannot_be_written(compatbench: Run, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    result = compatbench("run", "--suite", "smoke", "--out", "taken/here", cwd=tmp_path)
    expect_one_line(result, "cannot write taken/here")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(compatbench: Run, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    result = compatbench("run", "--suite", "smoke", cwd=tmp_path)
    tmp_path.chmod(0o755)
    expect_one_line(result, "cannot write")


def test_no_results_to_make_a_leaderboard_of(compatbench: Run, tmp_path: Path) -> None:
    result = compatbench("leaderboard", cwd=tmp_path)
    expect_one_line(
        result, "results holds no results; give the folder that holds results/ with --out"
    )


SUITE = """\
name: real
title: Real
upgrades: [[{source}, mini-eva-clip]]
tasks: [mini-weather]
shots: [1]
seeds: [1]
"""


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "vit-b16-openai",
            "open_clip_model.safetensors of timm/vit_base_patch16_clip_224.openai is not on this "
            "machine, and nothing may be fetched (HF_HUB_OFFLINE)",
        ),
        ("ViT-B-16/openai", "use the model 'ViT-B-16-quickgelu'"),
        ("vit-b16", "no backbone named 'vit-b16'; did you mean vit-"),
        ("mini-clip@nothing.pt", "nothing.pt"),
    ],
)
def test_a_backbone_that_cannot_be_had(
    compatbench: Run, tmp_path: Path, source: str, message: str
) -> None:
    (tmp_path / "real.yaml").write_text(SUITE.format(source=source))
    options = ["--suite", "real.yaml", "--methods", "zeroshot", "--offline"]
    result = compatbench("run", *options, cwd=tmp_path, HF_HOME=str(tmp_path), HOME=str(tmp_path))
    expect_one_line(result, message)


def test_a_plan_is_shown_without_the_weights(compatbench: Run, tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text(SUITE.format(source="vit-b16-openai"))
    options = ["--suite", "real.yaml", "--methods", "coop"]
    result = compatbench("plan", *options, cwd=tmp_path, HF_HOME=str(tmp_path), HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "hub").exists()


def expect_one_line(result, message: str) -> None:
    assert result.returncode == 2, result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("compatbench: ")
    assert message in lines[0]
