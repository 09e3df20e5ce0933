"""Writes real_run.json: the disk and memory that `plan` counts for a run, and what the run took.

python benchmark/scale/real_run.py

Six methods, one of each kind, on a mini task and its variants, with one worker and a cache of
its own. Fits are cut to a few steps, which changes neither; it takes minutes.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.engine.costs import count_costs
from compatbench.engine.matrix import select_matrix
from compatbench.files.atomic import write_atomic
from compatbench.method.registry import builtin_methods

RESULTS = Path(__file__).with_suffix(".json")
# Nothing that is learned; a prompt; a prompt for every image; a cache of features; prompts in the
# image tower; low-rank updates of both towers.
METHODS = ("zeroshot", "coop", "cocoop", "tip_adapter_f", "vpt_deep", "clip_lora")
SUITE = {
    "name": "real-run",
    "title": "What a run takes",
    "extends": "mini",
    "tasks": ["mini-travel"],
    "development": [],
    "methods": {name: {"max_steps": 2} for name in METHODS[1:]},
    "training": {"max_steps": 2, "views": 8, "crop_scale": [0.5, 1.0]},
    "seeds": [1],
    "run_seeds": [1],
}


def count() -> dict[str, int]:
    """What `plan` says, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        costs = count_costs(select_matrix(_read_suite(Path(folder)), builtin_methods(), METHODS))
    return {
        "cache": costs.features_bytes + costs.tokens_bytes,
        "predictions": costs.predictions_bytes,
        "memory": costs.memory_bytes,
    }


def run() -> dict[str, int]:
    """What the run took, in bytes; the memory is the most that its process held."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _read_suite(folder)
        command = [sys.executable, "-m", "compatbench", "run", "--suite", "real-run.yaml"]
        command += ["--methods", ",".join(METHODS), "--out", "out", "--jobs", "1"]
        places = {"COMPATBENCH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=folder, env=os.environ | places, check=True)
        return {
            "cache": _size(folder / "cache"),
            "predictions": _size(folder / "out/runs/predictions"),
            "memory": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
            "modules": _size(folder / "out/runs/modules"),
            "all": _size(folder),
        }


def read() -> dict[str, Any]:
    """What was counted and used."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def _read_suite(folder: Path) -> SuiteCard:
    path = folder / "real-run.yaml"
    path.write_text(yaml.safe_dump(SUITE), encoding="utf-8")
    return suite_cards.read(str(path))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    results = {"counted": count(), "used": run()}
    write_atomic(RESULTS, (json.dumps(results, indent=1) + "\n").encode())
