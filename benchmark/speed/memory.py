"""Measure 1,000 ImageNet names in little memory: peak, time, and share of the machine's own rate.

python benchmark/speed/memory.py    # a minute on an idle machine; writes memory.json

The pass with a memory budget comes first, so that its peak is not that of the pass without one.
If a promise of the page is broken, the program stops and writes nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from workload import CONTEXT, make_workload, matmul_rate, peak_gib, read_names, time_best

from compatbench.backbone import memory_budget

# The kernels of matrix products, as the profiler names them.
LINEAR = ("mkldnn::_linear_pointwise", "aten::mm", "aten::addmm")
ATTENTION = ("aten::bmm", "aten::baddbmm")
RESULTS = Path(__file__).with_name("memory.json")
BUDGET = 750 * 2**20
ROUNDS = 3


def measure() -> dict[str, float]:
    """Return the figures of both passes, ``budget_...`` and ``free_...``."""
    workload = make_workload()
    figures: dict[str, float] = {"loaded_gib": peak_gib()}
    names = read_names("imagenet")
    context = workload.draw_context(CONTEXT)

    def run() -> tuple[Tensor, Tensor]:
        return workload.fast_pass(names, context)

    figures |= {"classes": len(names), "budget_bytes": BUDGET}
    passes: dict[str, tuple[Tensor, Tensor]] = {}
    rates = [matmul_rate()]
    for kind, budget in (("budget", BUDGET), ("free", 2**60)):
        with memory_budget(budget):
            passes[kind] = run()
            figures[f"{kind}_peak_gib"] = peak_gib()
            figures[f"{kind}_seconds"] = time_best(run, ROUNDS)[0]
            rates.append(matmul_rate())
            # Products of the linear layers alone; attention's own are not counted.
            with FlopCounterMode(display=False) as counter:
                run()
            figures[f"{kind}_gflop"] = counter.get_total_flops() / 1e9
        if kind == "free":
            figures |= share_of_products(run)
    for kind in passes:
        done = figures[f"{kind}_gflop"] / figures[f"{kind}_seconds"]
        figures[f"{kind}_rate"] = done * 1e9 / max(rates)
    pairs = zip(passes["budget"], passes["free"], strict=True)
    figures["same_bits"] = all(torch.equal(a, b) for a, b in pairs)
    return figures


def share_of_products(run: Callable[[], object]) -> dict[str, float]:
    """Return which parts of a pass's time are products of linear layers and of attention."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    seconds = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    whole = sum(seconds.values())
    shares = {}
    for name, kernels in (("linear", LINEAR), ("attention", ATTENTION)):
        shares[f"{name}_share"] = sum(seconds.get(kernel, 0) for kernel in kernels) / whole
    return shares


def list_broken(figures: dict[str, float]) -> list[str]:
    """Return the promises that the figures break."""
    promises = {
        "the same bits": figures["same_bits"],
        "less than 2 GiB": figures["budget_peak_gib"] < 2,
        "at most 1.6 times as long": figures["budget_seconds"] < 1.6 * figures["free_seconds"],
        "70 % of the rate": min(figures["free_rate"], figures["budget_rate"]) > 0.7,
    }
    return [promise for promise, kept in promises.items() if not kept]


def main() -> None:
    """Measure, check the promises, and write ``memory.json``."""
    torch.set_num_threads(1)
    figures = measure()
    print(json.dumps(figures, indent=1))
    broken = list_broken(figures)
    if broken:
        sys.exit(f"not kept: {', '.join(broken)}")
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
