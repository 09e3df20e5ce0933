"""Wrong input ends in one clear line, an error of ours."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from command_line import invoke_in, output_in

from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import tasks_folder

from .running import write_suite

# A file of the cards, what of it is replaced, and what is said; of the others a bit is flipped.
SPOILT = [
    ("mini/mini-eva-clip.safetensors", b"", b"", "mini-eva-clip.safetensors is damaged or was"),
    ("mini/drawings/*.webp", b"", b"", ".webp is damaged"),
    pytest.param(  # as a worker process finds out
        *("backbones/mini-eva-clip.yaml", b"config: mini-eva-clip", b"config: mini-clip"),
        "the weights do not fit the architecture",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("pattern", "old", "new", "message"), SPOILT)
def test_a_spoilt_card_or_file(
    tmp_path: Path, pattern: str, old: bytes, new: bytes, message: str
) -> None:
    cards = Path(shutil.copytree(tasks_folder(), tmp_path / "tasks"))
    for path in cards.glob(pattern):
        content = path.read_bytes()
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes(content.replace(old, new) if old else flipped)
    worker = ["--timeout", "10m"] if old else []
    options = ["--suite", "smoke", "--methods", "zeroshot,coop", "--jobs", "1", *worker]
    environment = {"COMPATBENCH_TASKS": str(cards), "COMPATBENCH_CACHE": str(tmp_path / "cache")}
    with pytest.raises(CompatbenchError, match=message):
        invoke_in(tmp_path, "run", *options, **environment)


def test_broken_results_of_another_suite_stop_a_run_before_its_work(
    smoke: Path, tmp_path: Path
) -> None:
    shutil.copytree(smoke / "results" / "smoke", tmp_path / "results" / "other")
    path = tmp_path / "results" / "other" / "coop.csv"
    path.write_text(path.read_text().replace(",ok,", ",fine,", 1))
    with pytest.raises(CompatbenchError, match=r"coop\.csv:2: 'status'"):
        invoke_in(tmp_path, "run", "--suite", "smoke", "--methods", "zeroshot")
    assert not (tmp_path / "runs" / "cells").exists()


def test_a_backbone_that_cannot_be_had(tmp_path: Path) -> None:
    """It is never fetched; a plan is shown without its weights."""
    write_suite(tmp_path, "real", upgrades=[["vit-b16-openai", "mini-eva-clip"]])
    home = {"HF_HOME": str(tmp_path), "HOME": str(tmp_path)}
    options = ["--suite", "real.yaml", "--methods", "coop"]
    message = (
        "open_clip_model.safetensors of timm/vit_base_patch16_clip_224.openai is not on this "
        "machine, and nothing may be fetched (HF_HUB_OFFLINE)"
    )
    with pytest.raises(CompatbenchError, match=re.escape(message)):
        invoke_in(tmp_path, "run", *options, "--offline", **home)
    output_in(tmp_path, "plan", *options, **home)
    assert not (tmp_path / "hub").exists()
