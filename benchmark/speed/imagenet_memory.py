"""Prints, as JSON, what 1,000 classes cost with a memory budget and without one.

Run by test_memory.py in a process of its own. The budgeted pass comes first, so that
its peak is not that of the other one.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from workload import CONTEXT, make_workload, matmul_rate, read_names, time_plain

from compatbench.backbone import memory_budget

BUDGET = 750 * 2**20
ROUNDS = 3


def peak_gib() -> float:
    # Not getrusage: its peak is that of the parent until this program was started.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def main() -> None:
    torch.set_num_threads(1)
    workload = make_workload()
    loaded = peak_gib()
    names, context = read_names("imagenet"), workload.draw_context(CONTEXT)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        return workload.fast_pass(names, context)

    result: dict[str, object] = {"classes": len(names), "budget_bytes": BUDGET}
    passes, rates = {}, [matmul_rate()]
    for kind, budget in (("budget", BUDGET), ("free", 2**60)):
        with memory_budget(budget):
            passes[kind] = run()
            result[f"{kind}_peak_gib"] = peak_gib()
            result[f"{kind}_seconds"] = time_plain(run, ROUNDS)[0]
            rates.append(matmul_rate())
            # Products of the linear layers alone; attention's own are not counted.
            with FlopCounterMode(display=False) as counter:
                run()
            result[f"{kind}_gflop"] = counter.get_total_flops() / 1e9
    for kind in passes:
        done = float(result[f"{kind}_gflop"]) / float(result[f"{kind}_seconds"])  # type: ignore[arg-type]
        result[f"{kind}_rate"] = done * 1e9 / max(rates)
    result["matmul_gflops"] = max(rates) / 1e9
    result["loaded_gib"] = loaded
    result["same_bits"] = all(
        torch.equal(a, b) for a, b in zip(passes["budget"], passes["free"], strict=True)
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
