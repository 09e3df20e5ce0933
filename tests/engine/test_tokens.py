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


@pytest.mark.slow
@pytest.mark.parametrize("target_block", [5, 6])
def test_tokens_reach_the_method_or_a_target_that_cannot_give_them_is_a_result(
    compatbench: Run, tmp_path: Path, target_block: int
) -> None:
    blocks = {"mini-clip": 2, "mini-eva-clip": target_block}
    (tmp_path / "inside.py").write_text(METHOD + f"\nBLOCK = {blocks}\n")
    result = compatbench("run", "--suite", "smoke", "--methods", "./inside.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr + result.stdout
    rows = csv.DictReader((tmp_path / "results" / "smoke" / "inside.csv").open())
    source, target = rows
    # From an inner block on the frozen tower is zero-shot.
    assert source["correct"] == source["zero_shot_correct"] != ""
    if target_block == 5:
        assert target["correct"] == target["zero_shot_correct"] != ""
    else:
        assert target["status"] == "not transferable"
        assert target["reason"] == "the method acts from block 6 on, and the image tower has 6"
