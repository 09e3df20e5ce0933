"""The real B/16 pair, with random weights, on a fabricated DTD: memory and time on a CPU.

It takes minutes, so it runs only when it is asked for: ``COMPATBENCH_TEST_B16=1``.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from data.trees import Sizes, build_tree, write_cards
from safetensors.torch import save_file

from compatbench.results.store import read_results

ALIGNED = ("simpleshot", "taskres", "tip_adapter_f", "clip_adapter")
METHODS = ("coop", "contcoop", "clip_adapter", "tip_adapter_f")
LIMIT = 8 * 2**30


def save_random(model: str, path: Path) -> Path:
    torch.manual_seed(0)
    state = open_clip.create_model(model, pretrained=None).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def run_pair(folder: Path, models: tuple[str, str], task: str, methods: str) -> list[str]:
    """Runs methods on two models of random weights; the names of the backbones."""
    names = []
    for model in models:
        names.append(f"{model}@{save_random(model, folder / f'{model}.safetensors')}")
    tree = build_tree(task, folder / "data", Sizes(train=2, val=1, test=1))
    suite = folder / "b16.yaml"
    matrix = {
        "name": "b16",
        "title": "B/16",
        "upgrades": [names],
        "tasks": [task],
        "shots": [1],
        "seeds": [1],
        "training": {"max_steps": 3},
    }
    suite.write_text(yaml.safe_dump(matrix), encoding="utf-8")
    environment = {
        "COMPATBENCH_TASKS": str(write_cards(folder / "tasks", [tree])),
        "COMPATBENCH_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "compatbench", "run", "--suite", str(suite), "--jobs", "1"]
    command += ["--methods", methods, "--data-root", str(folder / "data")]
    result = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return names


@pytest.mark.skipif("COMPATBENCH_TEST_B16" not in os.environ, reason="takes minutes; opt in")
def test_the_real_pair_runs_on_a_cpu_in_8_gib(tmp_path: Path) -> None:
    pair = "ViT-B-16-quickgelu", "EVA02-B-16"
    names = run_pair(tmp_path, pair, "dtd", ",".join(METHODS))
    methods = read_results(tmp_path / "results" / "b16").methods
    assert sorted(methods) == sorted(METHODS)
    for method in methods.values():
        assert {row.backbone for row in method.rows} == set(names)
        assert all(row.status == "ok" and row.total == 47 for row in method.rows)
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    print(f"peak memory {peak / 2**30:.2f} GiB")
    assert peak < LIMIT


@pytest.mark.skipif("COMPATBENCH_TEST_B16" not in os.environ, reason="takes minutes; opt in")
@pytest.mark.parametrize("target", ["EVA02-B-16", "EVA02-L-14"])
def test_modules_are_aligned_to_the_real_target_and_to_a_wider_one(
    tmp_path: Path, target: str
) -> None:
    names = [f"{name}{way}" for name in ALIGNED for way in ("", "+aligned")]
    pair = run_pair(tmp_path, ("ViT-B-16-quickgelu", target), "eurosat", ",".join(names))
    results = read_results(tmp_path / "results" / "b16")
    assert sorted(results.methods) == sorted(results.of("words")) == sorted(ALIGNED)
    for method in results.all:
        reached = target == "EVA02-B-16" or method.transfer == "words"
        for row in method.rows:
            expected = "ok" if reached or row.backbone == pair[0] else "not transferable"
            assert row.status == expected
