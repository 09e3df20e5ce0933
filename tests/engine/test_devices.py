"""Devices: workers on each of several, and a whole task on a make-believe accelerator."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from compatbench.backbone import device
from compatbench.backbone.build import allow_tf32
from compatbench.backbone.device import PeakMemory
from compatbench.data.feature_cache import FeatureCache
from compatbench.engine import compute as module
from compatbench.engine.compute import Compute
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker
from compatbench.files import processes

from .running import write_suite

METHODS = ("zeroshot", "tip_adapter", "kgcoop")
# Runs the suite on a processor, and on all cards of a make-believe accelerator.
PROGRAM = f"""
import torch
import compatbench as cb
from fake_accelerator import NAME, whole_harness

torch.set_num_threads(1)
cards = cb.Compute(device=f"{{NAME}}:all", decoders=1)
for out, compute in (("processor", cb.Compute(device="cpu", jobs=1)), ("cards", cards)):
    with whole_harness():
        failures = cb.run("./short.yaml", {METHODS}, out=out, compute=compute).failures
        assert failures == (), failures[:2]
"""


def test_workers_are_spread_over_all_cards_and_share_the_cores_for_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    available = ["cpu", "cuda", "cuda:0", "cuda:1", "mps"]
    for place in (module, device):
        monkeypatch.setattr(place, "available_devices", lambda: available)
    monkeypatch.setattr(module, "count_cores", lambda: 16)
    for given, devices, workers, decoders in (
        (Compute(device="cuda:all"), ["cuda:0", "cuda:1"], 2, 8),
        (Compute(device="cuda:all", jobs_per_gpu=3), ["cuda:0", "cuda:1"], 6, 2),
        (Compute(device="cuda:all", jobs=3, decoders=5), ["cuda:0", "cuda:1"], 3, 5),
        (Compute(device="cuda:1", jobs_per_gpu=2), ["cuda:1"], 2, 8),
        (Compute(device="auto"), ["cuda"], 1, 16),
        (Compute(device="cpu"), ["cpu"], 16, 1),
        (Compute("ray", "cuda", threads=3), ["cuda"], 1, 3),
    ):
        assert given.list_devices() == devices
        assert (given.count_workers(), given.count_decoders()) == (workers, decoders)
        worker = given.on(devices[-1])
        assert (worker.list_devices(), worker.count_decoders()) == (devices[-1:], decoders)


def test_cores_are_those_that_a_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    file = tmp_path / "cpu.max"
    monkeypatch.setattr(processes, "_QUOTA", file)
    found = [processes.count_cores()]
    for quota in ("max 100000", "1550000 100000", "50000 100000", "12800000 100000"):
        file.write_text(quota + "\n")
        found.append(processes.count_cores())
    assert found == [64, 64, 16, 1, 64]


def test_a_backbone_in_memory_computes_in_its_own_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(name: str, device: str, precision: str) -> object:
        loaded.append(precision)
        allow_tf32(precision == "tf32")
        return object()

    monkeypatch.setattr("compatbench.engine.worker.load_backbone", load)
    worker = Worker(RunStore(tmp_path), FeatureCache(tmp_path))
    for precision, found in (("tf32", "high"), ("fp32", "highest")) * 2:
        worker._load("mini-clip", precision)
        assert torch.get_float32_matmul_precision() == found
    assert loaded == ["tf32", "fp32"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_the_peak_is_that_of_the_cell_and_not_of_those_before() -> None:
    memory = PeakMemory("cpu")
    peaks = []
    assert memory.read() is None
    for size in (1, 2**26, 1):
        memory.reset()
        large = torch.ones(size)
        peaks.append(memory.read() or 0)
        del large
    before, peak, after = peaks
    assert peak - before > 0.9 * 2**28
    assert peak - after > 0.5 * 2**28


@pytest.mark.slow
def test_a_task_on_two_cards_has_the_rows_of_a_processor(tmp_path: Path) -> None:
    """Run in another process, because a registered device stays for a whole process."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "FAKE_CARDS": "2",
        "COMPATBENCH_CACHE": str(tmp_path / "cache"),
    }
    write_suite(tmp_path, "short", shots=[2], training={"views": 1, "max_steps": 2})
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    found = {}
    for name in ("processor", "cards"):
        found[name] = {}
        for path in sorted((tmp_path / name / "results" / "short").glob("*.csv")):
            if path.name != "costs.csv":
                found[name][path.name] = pd.read_csv(path)
    assert set(found["cards"]) == {f"{name}.csv" for name in METHODS}
    # Confidences are rounded to half precision, so rounding before it may move one by a step of it.
    near = ["ece", "ece_width"]
    for name, rows in found["processor"].items():
        pd.testing.assert_frame_equal(
            found["cards"][name].drop(columns=near), rows.drop(columns=near)
        )
        assert (found["cards"][name][near] - rows[near]).abs().max().max() < 0.01
    assert len(list((tmp_path / "cards").glob("worker on fakegpu:*"))) == 2
