"""Many runs of one suite at once, in one folder and with one cache: no cell lost or doubled."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from commands import finish, planned, results_of, start

from compatbench.data import feature_cache
from compatbench.engine.worker import Worker


def run(suite: Path, folder: Path, undisturbed: Path, processes: int) -> dict[str, Any]:
    """Starts the runs side by side, and counts what each of them has done."""
    out, log = folder / "shared", folder / "shared.work"
    begin = time.monotonic()

    def before() -> None:
        os.environ["COMPATBENCH_CACHE"] = str(folder / "shared-cache")
        _note_work(log)

    pids = [start(suite, out, "--jobs", "1", before=before) for _ in range(processes)]
    codes = [finish(pid) for pid in pids]
    lines = [line.split() for line in log.read_text().splitlines()]
    fits = Counter(key for what, key, _ in lines if what == "fit")
    entries = list((folder / "shared-cache").rglob("*.safetensors"))
    cells = planned(suite, out)
    return {
        "processes": processes,
        "that fitted something": len({pid for what, _, pid in lines if what == "fit"}),
        "that failed": sum(code != 0 for code in codes),
        "cells": len(cells),
        "cells lost": sum(not item.done for item in cells),
        "cells fitted more than once": sum(n > 1 for n in fits.values()),
        "cells never fitted": len({item.cell.key for item in cells} - set(fits)),
        "cache entries": len(entries),
        "entries encoded": sum(what == "encode" for what, *_ in lines),
        "same results": results_of(suite, out, undisturbed) == results_of(suite, undisturbed),
        "seconds": round(time.monotonic() - begin),
    }


def _note_work(log: Path) -> None:
    """Lets this process write down every fit and every encoding; lines do not mix."""
    fit, encode = Worker.fit, feature_cache.encode

    def note(what: str, key: str) -> None:
        with log.open("a") as file:
            file.write(f"{what} {key} {os.getpid()}\n")

    def noted_fit(self: Worker, cell: Any, method: Any) -> Any:
        note("fit", cell.key)
        return fit(self, cell, method)

    def noted_encode(entries: Any, *arguments: Any) -> Any:
        for _ in entries:
            note("encode", "-")
        return encode(entries, *arguments)

    Worker.fit, feature_cache.encode = noted_fit, noted_encode  # type: ignore[method-assign]
