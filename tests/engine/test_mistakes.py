"""Wrong input ends in one clear line and exit code 2, never in a traceback."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from compatbench.files.project_folders import tasks_folder

from .running import Run, expect_one_line, said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x = 1\ndef fit(:\n", "mine.py:2: SyntaxError"),
        (b"\x80\x81\x00", "mine.py: SyntaxError"),
        (b"", "mine.py defines no method"),
    ],
)
def test_a_wrong_method_file(
    compatbench: Run, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "mine.py").write_bytes(content)
    result = compatbench("run", "--methods", "./mine.py", cwd=tmp_path)
    expect_one_line(result, message)


def replace_text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(cards: Path) -> None:
        text = (cards / name).read_text()
        assert old in text
        (cards / name).write_text(text.replace(old, new))

    return spoil


def flip_bit(pattern: str) -> Callable[[Path], None]:
    def spoil(cards: Path) -> None:
        for path in cards.glob(pattern):
            content = bytearray(path.read_bytes())
            content[-len(content) // 2] ^= 1
            path.write_bytes(content)

    return spoil


SMOKE, CARD = "suites/smoke.yaml", "backbones/mini-eva-clip.yaml"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (replace_text(SMOKE, "shots: [4]\n", ""), "smoke.yaml:1: field 'shots' is missing"),
        (replace_text(SMOKE, "seeds: [1]", "seeds: [1]\nsedes: [2]"), "field 'sedes' is not known"),
        (
            replace_text(SMOKE, "methods:\n", "methods:\n  coop: {contxt_length: 4}\n"),
            "setting 'contxt_length' of method 'coop'",
        ),
        (flip_bit("mini/mini-eva-clip.safetensors"), "mini-eva-clip.safetensors is damaged or was"),
        (flip_bit("mini/drawings/*.webp"), ".webp is damaged"),
        pytest.param(  # as a worker process finds out
            replace_text(CARD, "config: mini-eva-clip", "config: mini-clip"),
            "the weights do not fit the architecture",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_spoilt_card_or_file(
    compatbench: Run, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    cards = tmp_path / "tasks"
    shutil.copytree(tasks_folder(), cards)
    spoil(cards)
    worker = ["--timeout", "10m"] if "architecture" in message else []
    options = ["--suite", "smoke", "--methods", "zeroshot,coop", "--jobs", "1", *worker]
    environment = {"COMPATBENCH_TASKS": str(cards), "COMPATBENCH_CACHE": str(tmp_path / "cache")}
    expect_one_line(compatbench("run", *options, cwd=tmp_path, **environment), message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",ok,", ",fine,", "coop.csv:2: 'status'"),
        (",task,", ",former,", "coop.csv:1: the columns must be"),
    ],
)
def test_broken_results_of_another_suite_stop_a_run_before_its_work(
    compatbench: Run, smoke: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    shutil.copytree(smoke / "results" / "smoke", tmp_path / "results" / "other")
    path = tmp_path / "results" / "other" / "coop.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    result = compatbench("run", "--suite", "smoke", "--methods", "zeroshot", cwd=tmp_path)
    expect_one_line(result, message)
    assert not (tmp_path / "runs" / "cells").exists()


SUITE = """\
name: real
title: Real
upgrades: [[{source}, mini-eva-clip]]
tasks: [mini-weather]
shots: [1]
seeds: [1]
"""
NOT_HERE = (
    "open_clip_model.safetensors of timm/vit_base_patch16_clip_224.openai is not on this machine, "
    "and nothing may be fetched (HF_HUB_OFFLINE)"
)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("vit-b16-openai", NOT_HERE),
        ("ViT-B-16/openai", "use the model 'ViT-B-16-quickgelu'"),
        ("vit-b16", "no backbone named 'vit-b16'; did you mean vit-"),
        ("mini-clip@nothing.pt", "nothing.pt"),
    ],
)
def test_a_backbone_that_cannot_be_had(
    compatbench: Run, tmp_path: Path, source: str, message: str
) -> None:
    (tmp_path / "real.yaml").write_text(SUITE.format(source=source))
    home = {"HF_HOME": str(tmp_path), "HOME": str(tmp_path)}
    options = ["--suite", "real.yaml", "--methods", "coop"]
    expect_one_line(compatbench("run", *options, "--offline", cwd=tmp_path, **home), message)
    if message == NOT_HERE:
        # A plan is shown without the weights.
        said(compatbench("plan", *options, cwd=tmp_path, **home))
        assert not (tmp_path / "hub").exists()
