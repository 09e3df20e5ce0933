"""On a GPU, features, logits and rows are those of a processor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from device_comparison import Places, compare

import compatbench as cb
from compatbench.backbone import FEATURES, ImageInput, load_backbone
from compatbench.data.encoding import Images, encode
from compatbench.data.images.views import View
from compatbench.data.task import load_task
from compatbench.method.registry import builtin_methods


@pytest.fixture
def places() -> Places:
    """Return what moves backbones and images to the GPU."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return Places(torch.device("cuda"))


@pytest.mark.gpu
def test_logits_of_every_method_are_those_of_a_processor(places: Places) -> None:
    registry = builtin_methods()
    far = {name: compare(registry.get(name), places) for name in registry.names()}
    assert {name: distance for name, distance in far.items() if distance > 1e-3} == {}


@pytest.mark.gpu
@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("wanted", [FEATURES, ImageInput("hidden", 3)])
def test_features_are_those_of_a_processor_and_of_smaller_batches(wanted: ImageInput) -> None:
    task = load_task("mini-weather")
    samples = task.split("test")[:100]
    found = []
    kinds = [("cpu", "fp32"), *(("cuda", precision) for precision in ("fp32", "bf16", "fp16"))]
    for device, precision in kinds:
        backbone = load_backbone("mini-eva-clip", device, precision)
        own = None if wanted == FEATURES else wanted
        entries = [Images(backbone, task, samples, View(i), own) for i in range(2)]
        found.append(torch.cat(encode(entries, lambda *_: None, 4)).float().flatten(1))
        if precision == "fp32" and device == "cuda":
            backbone._at_once[wanted] = 7
            found.append(torch.cat(encode(entries, lambda *_: None, 4)).float().flatten(1))
    for other, least in zip(found[1:], (1 - 1e-5, 1 - 1e-5, 0.99, 0.999), strict=True):
        assert float(F.cosine_similarity(found[0], other).min()) > least


@pytest.mark.gpu
@pytest.mark.usefixtures("places")
def test_rows_of_a_task_are_those_of_a_processor_but_for_ties(tmp_path: Path) -> None:
    """In processes on all cards, with a limit of time, as ``--device cuda:all`` starts them."""
    rows = []
    for name, compute in (
        ("processor", cb.Compute(device="cpu", jobs=1)),
        ("cards", cb.Compute(device="cuda:all", timeout=300)),
    ):
        methods = ["zeroshot", "tip_adapter", "kgcoop", "vpt_shallow"]
        found = cb.run("smoke", methods, out=tmp_path / name, compute=compute)
        assert not found.failures
        rows.append(found.frame.sort_values(["method", "backbone"]))
    apart = (rows[0]["correct"].to_numpy() - rows[1]["correct"].to_numpy()).tolist()
    assert max(map(abs, apart)) <= 2
