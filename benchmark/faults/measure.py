"""Breaks runs and files in every way that machines do; notes what became of them in results.json.

python benchmark/faults/measure.py               # ten minutes on two idle cores
python benchmark/faults/measure.py --only kills  # one part anew, beside what is noted
python benchmark/faults/measure.py --short       # half a minute; writes nothing
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import damage
import scenarios
import typer
from runs import Figures, Place, finish, prepare

RESULTS = Path(__file__).parent / "results.json"


# What is done to runs, how much of it, and with --short.
SCENARIOS: dict[str, tuple[Callable[[Place, int], Figures], int, int]] = {
    "disk": (scenarios.disk, 12, 1),
    "sharing": (scenarios.sharing, 8, 2),
    "kills": (scenarios.kills, 50, 3),
    "damage": (damage.spoil_all, 1000, 20),
}
# What of their figures must be 0.
FAULTS = {
    *("of these without one clear line", "files half-written", "finished cells lost"),
    *("exit code with room", "results that differ", "that failed", "cells lost"),
    *("cells fitted more than once", "cells never fitted", "images encoded more than once"),
    *("rounds with other results", "finished cells run again or lost", "failed"),
    "bytes unnoticed",
}


def find_faults(results: dict[str, Figures]) -> list[str]:
    """What should be 0 and is not."""
    measured = {name: results[name] for name in SCENARIOS if name in results}
    faults = [
        f"{name}: {figure}"
        for name, figures in measured.items()
        for figure, value in figures.items()
        if figure in FAULTS and value
    ]
    if "disk" in measured and not measured["disk"]["runs stopped by a full disk"]:
        faults.append("disk: it was never full")
    return faults


def main(short: bool = False, only: str | None = None) -> None:
    """Break runs on purpose; the exit code is 1 if anything is lost, doubled or unnoticed."""
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = prepare(Path(folder), [1] if short else [1, 2, 4, 8])
        begin = time.monotonic()
        if code := finish(undisturbed.run("--jobs", "2")):
            sys.exit(f"the undisturbed run ends with {code}:\n{undisturbed.log.read_text()}")
        undisturbed = replace(undisturbed, seconds=time.monotonic() - begin)
        results = json.loads(RESULTS.read_text()) if only and not short else {}
        results |= {
            "machine": f"{platform.system()}, Python {platform.python_version()}",
            "cells": int(undisturbed.plan().frame["cells"].sum()),
        }
        for name in [only] if only else SCENARIOS:
            (scenario, *counts), begin = SCENARIOS[name], time.monotonic()
            results[name] = scenario(undisturbed, counts[short])
            results[name]["seconds"] = round(time.monotonic() - begin)
            print(f"{name}: {results[name]}", file=sys.stderr)
    text = json.dumps(results, indent=1) + "\n"
    print(text, end="")
    if not short:
        RESULTS.write_text(text)
    if faults := find_faults(results):
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    typer.run(main)
