"""Breaks runs in every way that machines do, and notes what became of them in results.json.

python benchmark/faults/measure.py          # a quarter of an hour on two idle cores
python benchmark/faults/measure.py --only kills
python benchmark/faults/measure.py --short  # half a minute
python benchmark/faults/report.py           # docs/reliability.md
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import corruption
import disk
import kills
import sharing
from commands import finish, planned, prepare, start

RESULTS = Path(__file__).parent / "results.json"


PARTS = ("disk", "sharing", "kills", "corruption")


def measure(folder: Path, short: bool, wanted: Sequence[str] = PARTS) -> dict[str, Any]:
    """What is measured, by what was broken."""
    cache = folder / "cache"
    suite = prepare(folder, cache, [1] if short else [1, 2, 4, 8])
    reference = folder / "undisturbed"
    if code := finish(start(suite, reference, "--jobs", "2")):
        raise SystemExit(f"the undisturbed run ends with {code}: see {folder}/undisturbed.log")
    parts = {
        "disk": lambda: disk.run(suite, folder, reference, 2 if short else 12),
        "sharing": lambda: sharing.run(suite, folder, reference, 3 if short else 20),
        "kills": lambda: kills.run(suite, folder, reference, 4 if short else 100),
        "corruption": lambda: corruption.run(reference, cache, *((1, 0) if short else (2, 8))),
    }
    found: dict[str, Any] = {
        "machine": f"{platform.system()}, Python {platform.python_version()}",
        "cells": len(planned(suite, reference)),
    }
    for name in wanted:
        found[name] = parts[name]()
        print(f"{name}: {found[name]}", file=sys.stderr)
    return found


def find_faults(found: dict[str, Any]) -> list[str]:
    """What should be 0 or true and is not."""
    wrong = {
        "kills": ("rounds with other results", "finished cells run again or lost"),
        "sharing": (
            *("that failed", "cells lost", "cells fitted more than once", "cells never fitted"),
        ),
        "disk": (
            *("of these without one clear line", "files half-written", "finished cells lost"),
            "exit code with room",
        ),
    }
    faults = [
        f"{part}: {name}" for part, names in wrong.items() for name in names if found[part][name]
    ]
    faults += [part for part in ("sharing", "disk") if not found[part]["same results"]]
    if found["sharing"]["entries encoded"] != found["sharing"]["cache entries"]:
        faults.append("sharing: entries encoded")
    if not found["disk"]["runs stopped by a full disk"]:
        faults.append("disk: it was never full")
    kinds = ("records", "modules", "predictions", "features")
    return faults + [kind for kind in kinds if found["corruption"][kind]["unnoticed"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--short", action="store_true", help="a few of each; writes nothing")
    parser.add_argument("--only", choices=PARTS, help="one part anew, beside what is noted")
    options = parser.parse_args()
    short, only = options.short, options.only
    before = json.loads(RESULTS.read_text()) if only else {}
    with tempfile.TemporaryDirectory() as folder:
        found = before | measure(Path(folder), short, [only] if only else PARTS)
    text = json.dumps(found, indent=1) + "\n"
    print(text, end="")
    if not short:
        RESULTS.write_text(text)
    if faults := find_faults(found):
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
