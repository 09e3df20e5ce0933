"""Measures what cells of the mini suite cost, and notes it in cells.json under a name.

python benchmark/speed/cells.py NAME [REPEATS]

Run by the environments of two checkouts, in turn, it tells what a change of the harness
brought. Per method: CPU seconds of a step (a fit of ten steps, the best of some), of
classifying the test set on both backbones; and of the images of a cold draw of one seed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from compatbench.backbone import load_backbone
from compatbench.cards import suite_cards
from compatbench.features import FeatureCache
from compatbench.method import FewShotData, Method
from compatbench.method.registry import builtin_methods
from compatbench.run.fit import Worker
from compatbench.run.plan import plan_cells
from compatbench.run.store import RunStore

METHODS = [
    "coop",
    "contcoop",
    "kgcoop",
    "tcp",
    "prograd",
    "maple",
    "ivlp",
    "promptsrc",
    "proda",
    "plot",
    "clip_lora",
    "bitfit",
    "cocoop",
]
TASK, STEPS = "mini-play", 10
RESULTS = Path(__file__).parent / "cells.json"


def cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def main(name: str, repeats: int) -> None:
    torch.set_num_threads(1)
    suite, registry = suite_cards.read("mini"), builtin_methods()
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(Path(folder))
        worker = Worker(RunStore(Path(folder)), cache)
        cells = plan_cells(suite, registry, METHODS, tasks=TASK, seeds=[1, 2, 3])
        source = load_backbone("mini-clip")
        draws = [cell for cell in cells if cell.method == "coop"]
        images = cpu_seconds(lambda: [worker.few_shot_data(cell, source) for cell in draws])
        found: dict[str, dict[str, float]] = {}
        for cell in (cell for cell in cells if cell.seed == 1):
            method = registry.get(cell.method)(
                registry.get(cell.method).Config.model_validate(cell.config | {"max_steps": STEPS})
            )
            data = worker.few_shot_data(cell, source, method.image_input(source))

            def fit(method: Method = method, data: FewShotData = data) -> None:
                method.fit(source, data, torch.Generator().manual_seed(1))

            seconds = min(cpu_seconds(fit) for _ in range(repeats))
            short = replace(cell, config=cell.config | {"max_steps": 1}, test_sets=(TASK,))
            record = worker.run(short)
            found[cell.method] = {
                "step": seconds / STEPS,
                "evaluate": sum(record.seconds for record in record.records),
                "steps": cell.config["max_steps"],
            }
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[name] = {"task": TASK, "images": images, "methods": found}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 6)
