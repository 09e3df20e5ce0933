"""Compares what steps of the mini suite's fits cost in two checkouts; notes it in cells.json.

python benchmark/speed/cells.py PYTHON_BEFORE PYTHON_AFTER               # CPU seconds, one thread
python benchmark/speed/cells.py PYTHON_BEFORE PYTHON_AFTER --operations  # what a step computes

The arguments are the interpreters of the two environments. One process of each fits in turn,
so that both meet the same load of the machine; a ratio is the median over pairs of neighbours.
Operations are counted in the median step of a fit, on the processor.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median, median_high
from typing import Any

TASK, STEPS, PAIRS = "mini-objects", 10, 7
METHODS = (
    *("coop", "contcoop", "kgcoop", "tcp", "prograd", "bitfit", "cocoop", "proda", "plot_pp"),
    *("maple", "promptsrc", "clip_lora", "promptkd", "mmrl", "mma", "twosfs", "coprompt"),
    *("vpt_deep", "flyp", "kdpl", "wise_ft_weights"),
)
TAUGHT = {"promptkd", "kdpl"}  # a suite's teacher may be another in each checkout
RESULTS = Path(__file__).parent / "cells.json"
sys.path.append(str(Path(__file__).parents[1] / "scale"))


def serve() -> None:
    """Says what the processor is, then answers each line, a method and what is asked of its step:
    ``seconds`` of the processor, or ``operations``."""
    import torch
    from operations import count_steps

    from compatbench.backbone import load_backbone
    from compatbench.data.cards import suite_cards
    from compatbench.data.feature_cache import FeatureCache
    from compatbench.engine.cell import provenance
    from compatbench.engine.plan import plan_cells
    from compatbench.engine.store import RunStore
    from compatbench.engine.worker import Worker
    from compatbench.method.registry import builtin_methods

    torch.set_num_threads(1)
    suite, registry = suite_cards.read("mini"), builtin_methods()
    source = load_backbone("mini-clip")
    print(provenance()["processor"], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(RunStore(Path(folder)), FeatureCache(Path(folder)))
        cells = plan_cells(suite, registry, METHODS, tasks=TASK, seeds=[1, 2, 3])
        prepared = {}
        for name, asked in map(str.split, sys.stdin):
            if name not in prepared:
                cell = next(cell for cell in cells if cell.method == name)
                cls = registry.get(name)
                method = cls(cls.Config.model_validate(cell.config | {"max_steps": STEPS}))
                data = worker.few_shot_data(cell, source, method)
                prepared[name] = method, data
            method, data = prepared[name]
            rng = torch.Generator().manual_seed(1)
            start = time.process_time()
            if asked == "seconds":
                method.fit(source, data, rng)
                print((time.process_time() - start) / STEPS, flush=True)
                continue
            with count_steps() as counter:
                method.fit(source, data, rng)
            print(median_high(b - a for a, b in pairwise(counter.at_steps)), flush=True)


def start(python: str) -> subprocess.Popen[str]:
    command = [python, str(Path(__file__).resolve()), "--serve"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: subprocess.Popen[str], name: str, asked: str = "seconds") -> float:
    assert process.stdin is not None
    process.stdin.write(f"{name} {asked}\n")
    process.stdin.flush()
    return float(read(process))


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def compare(both: list[subprocess.Popen[str]]) -> dict[str, Any]:
    """CPU seconds of a step of each method."""
    processors, steps = [read(process) for process in both], {}
    for name in METHODS:
        for process in both:
            ask(process, name)
        times: tuple[list[float], list[float]] = ([], [])
        for pair in range(PAIRS):
            for i in (0, 1) if pair % 2 else (1, 0):
                times[i].append(ask(both[i], name))
        ratio = median(a / b for a, b in zip(*times, strict=True))
        steps[name] = {"before": min(times[0]), "after": min(times[1]), "ratio": ratio}
        print(name, steps[name], flush=True)
    return {"task": TASK, "pairs": PAIRS, "processors": processors, "steps": steps}


def count(both: list[subprocess.Popen[str]], pythons: list[str]) -> dict[str, Any]:
    """Operations of a step of each method that has no teacher, and the commits."""
    where = "import compatbench; print(compatbench.__path__[0])"
    commits, counted = [], {}
    for python, process in zip(pythons, both, strict=True):
        folder = subprocess.check_output([python, "-c", where], text=True).strip()
        head = ["git", "-C", folder, "rev-parse", "--short=8", "HEAD"]
        commits.append(subprocess.check_output(head, text=True).strip())
        read(process)  # its processor
    for name in METHODS:
        if name not in TAUGHT:
            for process in both:  # what is computed once is not counted
                ask(process, name)
            counted[name] = [int(ask(process, name, "operations")) for process in both]
            print(name, counted[name], flush=True)
    return {"operations": {"commits": commits, "steps": counted}}


def main(pythons: list[str], operations: bool) -> None:
    both = [start(python) for python in pythons]
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    known |= count(both, pythons) if operations else compare(both)
    for process in both:
        process.communicate()
    RESULTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    elif len(sys.argv) == 3 or sys.argv[3:] == ["--operations"]:
        main(sys.argv[1:3], operations=len(sys.argv) == 4)
    else:
        sys.exit(__doc__)
