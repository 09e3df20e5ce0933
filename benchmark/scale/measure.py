"""Writes measured.json: what the committed results of the mini suite took.

python benchmark/scale/measure.py

Seconds are wall clock on one core of a processor. Nothing is run here.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

from matrix import METHODS, count_work, read_kind, size_of

from compatbench.data.cards import COPIED, suite_cards, task_cards
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.results.result_files import read_method

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MEASURED = HERE / "measured.json"
MINI = ROOT / "results" / "mini"


def measure() -> dict[str, Any]:
    """Mean seconds, work and module sizes of each method's mini cells."""
    speed = json.loads((HERE.parent / "speed" / "results.json").read_text(encoding="utf-8"))
    harness = json.loads((HERE.parent / "speed" / "harness.json").read_text(encoding="utf-8"))
    machine = _machine([speed["machine_info"], harness["machine_info"]])
    return {
        "processor": machine["processor"],
        "core_flops": machine["matmul_gflops"] * 1e9,
        "store_seconds_per_cell": _store_seconds(harness),
        "methods": {name: _method(name) for name in METHODS},
    }


def _machine(known: list[dict[str, Any]]) -> dict[str, Any]:
    """The machine that the mini results were made on, of those whose speed was measured."""
    made_on = {
        processor
        for name in METHODS
        for processor in json.loads((MINI / f"{name}.json").read_text())["provenance"]["processor"]
    }
    for machine in known:
        if made_on == {machine["processor"]}:
            return machine
    raise CompatbenchError(
        f"the mini results were made on {', '.join(sorted(made_on))}; "
        "run benchmark/speed there first"
    )


def _method(name: str) -> dict[str, float]:
    kind, rows = read_kind(suite_cards.read("mini"), name), read_method(MINI, name).table
    # Others than copied cells share the fit of one.
    cells = [cell for _, cell in rows.loc[rows["transfer"] == COPIED].groupby("key", sort=False)]
    work = [
        count_work(
            kind,
            task_cards.read(cell["task"].iloc[0]),
            int(cell["shots"].iloc[0]),
            [size_of(backbone) for backbone in cell["backbone"].unique()],
            cell.drop_duplicates("test_set")["total"].tolist(),
        )
        for cell in cells
    ]
    return {
        "cells": len(cells),
        "fit_seconds": round(mean(float(cell["fit_seconds"].iloc[0]) for cell in cells), 4),
        "evaluate_seconds": round(mean(float(cell["evaluate_seconds"].sum()) for cell in cells), 4),
        "fit_work": round(mean(cell.fit for cell in work)),
        "evaluate_work": round(mean(cell.evaluate for cell in work)),
        "module_bytes": round(mean(int(cell["module_bytes"].iloc[0]) for cell in cells)),
    }


def _store_seconds(harness: dict[str, Any]) -> float:
    """CPU seconds to write one cell's record to a local disk."""
    [largest] = (b for b in harness["benchmarks"] if b["params"] == {"cells": 10000, "methods": 10})
    return largest["extra_info"]["parts"]["store"] / 10000


if __name__ == "__main__":
    content = json.dumps(measure(), indent=1) + "\n"
    write_atomic(MEASURED, content.encode())
