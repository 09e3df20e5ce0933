"""Methods that take tokens instead of image features, from the cache to the record."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from .conftest import Run

METHOD = """
from compatbench.method import *
from compatbench.method.trained import TrainedMethod
import torch

class Inside(TrainedMethod):
    card = MethodCard("inside", "Inside", "none", "image-layers", "zero-shot from block 2 on")

    def image_input(self, backbone):
        return ImageInput("hidden", BLOCK[backbone.name])

    def init(self, backbone, data, rng):
        assert data.train.view_inputs[1][torch.tensor([3, 0])].shape == (2, 17, 128)
        return Module({"nothing": torch.zeros(1)})

    def attach(self, module, backbone, labels):
        block, classify = BLOCK[backbone.name], CosineClassifier(backbone.zero_shot(labels), 1.0)

        def run(tokens):
            assert len(tokens) <= 128 and tokens.shape[1:] == (17, 128)
            features = backbone.image.encode(tokens, block=block)
            return classify(features) + 0 * module["nothing"]

        return run
"""


def run_method(compatbench: Run, folder: Path, target_block: int) -> list[dict[str, str]]:
    blocks = {"mini-clip": 2, "mini-eva-clip": target_block}
    (folder / "inside.py").write_text(METHOD + f"\nBLOCK = {blocks}\n")
    result = compatbench("run", "--suite", "smoke", "--methods", "./inside.py", cwd=folder)
    assert result.returncode == 0, result.stderr + result.stdout
    return list(csv.DictReader((folder / "results" / "smoke" / "inside.csv").open()))


@pytest.mark.slow
def test_from_an_inner_block_on_the_frozen_tower_is_zero_shot(
    compatbench: Run, tmp_path: Path
) -> None:
    rows = run_method(compatbench, tmp_path, target_block=5)
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert all(row["correct"] == row["zero_shot_correct"] for row in rows)


def test_tokens_that_a_target_cannot_give_are_a_result(compatbench: Run, tmp_path: Path) -> None:
    source, target = run_method(compatbench, tmp_path, target_block=6)
    assert source["status"] == "ok"
    assert target["status"] == "not transferable"
    assert target["reason"] == "the method acts from block 6 on, and the image tower has 6"
