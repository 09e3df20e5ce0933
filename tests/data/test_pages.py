"""The commands of the pages on real data, run as they stand there.

The data are small trees, and the suites' backbones tiny CLIPs of random weights: what is
tested is that a reader who types the commands, in that order, gets through.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from data.test_whole_way import invoke, write_random_backbone
from data.trees import Tree, write_cards

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def reader(
    trees: dict[str, Tree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """A folder with the suite 'paper', made small, and the data where the pages have them."""
    monkeypatch.setenv("COMPATBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COMPATBENCH_TASKS", str(write_cards(tmp_path / "tasks", trees.values())))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    pair = [write_random_backbone(tmp_path / f"clip-{seed}", seed) for seed in (0, 1)]
    suite = {
        "name": "paper",
        "title": "Paper, made small",
        "upgrades": [pair],
        "tasks": ["imagenet", "dtd"],
        "shots": [1],
        "seeds": [1],
        "training": {"max_steps": 2},
        "compare": ["zeroshot", "tip_adapter"],
    }
    Path("paper.yaml").write_text(yaml.safe_dump(suite), encoding="utf-8")
    return monkeypatch


def read_lines(page: str, section: str) -> list[str]:
    """The lines of the shell blocks in a section of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    body = re.split(r"(?m)^## ", text.split(f"\n## {section}\n", 1)[1])[0]
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", body)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def do(line: str, reader: pytest.MonkeyPatch, data: Path) -> str:
    """Does what a shell does with a line of the pages; returns what was printed."""
    printed = ""
    for part in re.split(r"&&|&\s*$", line):
        words = [
            word.replace("/data", str(data)) if word == "/data" else word
            for word in shlex.split(part, comments=True)
        ]
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            reader.setenv(*words.pop(0).split("=", 1))
        if not words or words == ["wait"]:
            continue
        program, *rest = words
        if program == "cp":
            *sources, target = [word for word in rest if word != "-r"]
            for source in sources:
                folder = Path(target, Path(source).name)
                shutil.copytree(source, folder, dirs_exist_ok=True)
        else:
            assert program == "compatbench", line
            result = invoke(*["./paper.yaml" if word == "paper" else word for word in rest])
            assert result.exit_code == 0, f"{line}\n{result.output}"
            printed += result.output
    return printed


def test_before_a_run_the_doctor_the_plan_and_the_published_figures(
    reader: pytest.MonkeyPatch, trees: dict[str, Tree]
) -> None:
    lines = read_lines("running-for-real.md", "Before")
    assert len(lines) == 3
    doctor, plan, verify = (do(line, reader, trees["dtd"].folder.parent) for line in lines)
    assert "found dtd " in doctor
    assert "4 cells" in plan, plan
    assert "dtd" in verify, verify


def test_one_gpu_then_several_whose_records_are_copied_together(
    reader: pytest.MonkeyPatch, trees: dict[str, Tree]
) -> None:
    data = trees["dtd"].folder.parent
    reader.setenv("COMPATBENCH_DATA", str(data))
    *runs, wait = read_lines("running-for-real.md", "Several GPUs")
    assert wait == "wait"
    for line in runs:
        printed = do(line, reader, data)
    assert "cells, all done" in printed, printed
    rows = Path("results/paper/tip_adapter.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + 2 * 2
    assert Path("leaderboard.md").is_file()


def test_offline_after_the_weights_were_fetched(
    reader: pytest.MonkeyPatch, trees: dict[str, Tree]
) -> None:
    data = trees["dtd"].folder.parent
    reader.setenv("COMPATBENCH_DATA", str(data))
    lines = read_lines("running-for-real.md", "Offline")
    for line in lines:
        if not line.startswith("hf "):
            do(line, reader, data)
    assert Path("results/paper/zeroshot.csv").is_file()


def test_a_draw_is_shared_compared_and_trained_on(
    reader: pytest.MonkeyPatch, trees: dict[str, Tree]
) -> None:
    data = trees["dtd"].folder.parent
    reader.setenv("COMPATBENCH_DATA", str(data))
    for line in read_lines("datasets.md", "Sharing a draw"):
        # The trees have fewer images than the real ones: the draw is of one.
        do(line.replace("--shots 16", "--shots 1"), reader, data)
    assert Path("results/paper/tip_adapter.csv").is_file()
