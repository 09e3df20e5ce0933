"""On a GPU, features, logits and rows equal those of the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
    """Move backbones and images to the GPU."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return Places(torch.device("cuda"))


@pytest.mark.gpu
def test_gpu_logits_of_every_method_equal_the_cpus(places: Places) -> None:
    registry = builtin_methods()
    different = []
    for name in registry.names():
        distance = compare(registry.get(name), places)
        if distance > 1e-3:
            different.append(f"{name}: {distance}")
    assert different == []


@pytest.mark.gpu
@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("wanted", [FEATURES, ImageInput("hidden", 3)])
def test_gpu_features_equal_the_cpus_in_any_batch_size(wanted: ImageInput) -> None:
    task = load_task("mini-weather")
    samples = task.split("test")[:100]
    found = []
    kinds = [("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "bf16"), ("cuda", "fp16")]
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
def test_gpu_rows_equal_the_cpus_except_for_ties(tmp_path: Path) -> None:
    """The GPU run has processes on all GPUs and a timeout, as ``--device cuda:all`` starts them."""

    def correct(name: str, compute: cb.Compute) -> np.ndarray:
        methods = ["zeroshot", "tip_adapter", "kgcoop", "vpt_shallow"]
        found = cb.run("smoke", methods, out=tmp_path / name, compute=compute)
        assert not found.failures
        return found.frame.sort_values(["method", "backbone"])["correct"].to_numpy()

    on_cpu = correct("cpu", cb.Compute(device="cpu", jobs=1))
    on_gpus = correct("gpus", cb.Compute(device="cuda:all", timeout=300))
    assert np.abs(on_cpu - on_gpus).max() <= 2
