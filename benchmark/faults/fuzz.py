"""Spoils files of every kind at random, reads them, and notes what came of it in fuzz.json.

python benchmark/faults/fuzz.py [--files 1000] [--seed 0] [--kind "task card"]

A damaged file must be refused in one line (``CompatbenchError``), or read as something that
could have been written; a file with a checksum must be refused or read as what it was. Another
exception, several lines, or more than a few seconds are failures, and are kept in failures/.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import typer
from mutations import mutate
from targets import TARGETS, Target

from compatbench.errors import CompatbenchError

RESULTS = Path(__file__).parent / "fuzz.json"
MOST_SECONDS = 5.0


@dataclass(frozen=True)
class Failure:
    """A damaged file that was not refused as it should be."""

    kind: str
    how: str
    why: str
    content: bytes


def try_once(target: Target, content: bytes, expected: object, folder: Path) -> tuple[str, str]:
    """Reads one damaged file.

    Returns:
        ``refused``, ``read`` or ``failed``, and the reason of a failure or refusal.
    """
    file = folder / target.name
    file.write_bytes(content)
    start = time.perf_counter()
    try:
        found = target.read(file)
    except CompatbenchError as error:
        text = str(error)
        if len(text.splitlines()) != 1 or not text.strip():
            return "failed", f"the message is not one line: {text!r:.200}"
        outcome = "refused", text
    # Whatever else comes is what is looked for.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "failed", f"{type(error).__name__}: {error!s:.200}"
    else:
        if target.sealed and found is not None and found != expected:
            return "failed", "something else was read than was written"
        # A store sets a damaged file aside, and a cache computes it again.
        outcome = ("refused", "set aside") if found is None else ("read", "")
    seconds = time.perf_counter() - start
    if seconds > MOST_SECONDS:
        return "failed", f"it took {seconds:.1f} s"
    return outcome


def fuzz(target: Target, files: int, seed: int) -> tuple[Counter[str], list[Failure]]:
    """Spoils a kind of file many times; the same seed gives the same files."""
    rng = random.Random(f"{seed} {target.kind}")
    counts: Counter[str] = Counter()
    failures = []
    with tempfile.TemporaryDirectory(prefix="compatbench-fuzz-") as place:
        work = Path(place)
        (work / "good").mkdir()
        good = target.good(work / "good")
        (work / "first").mkdir()
        (work / "first" / target.name).write_bytes(good)
        expected = target.read(work / "first" / target.name)
        for _ in range(files):
            content, how = mutate(rng, good)
            with tempfile.TemporaryDirectory(dir=work) as folder:
                status, why = try_once(target, content, expected, Path(folder))
            counts[status] += 1
            if status == "failed":
                failures.append(Failure(target.kind, how, why, content))
    return counts, failures


def main(files: int = 1000, seed: int = 0, kind: str | None = None) -> None:
    """Spoil so many files of each kind, or of one alone, of which nothing is noted."""
    found: dict[str, dict[str, int]] = {}
    bad: list[Failure] = []
    for target in TARGETS:
        if kind in (None, target.kind):
            counts, failures = fuzz(target, files, seed)
            bad += failures
            found[target.kind] = {name: counts[name] for name in ("refused", "read", "failed")}
            print(f"{target.kind}: {found[target.kind]}", flush=True)
    for number, failure in enumerate(bad):
        place = Path("failures") / f"{failure.kind.replace(' ', '-')}-{number}"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(failure.content)
        print(f"{place}: {failure.how}: {failure.why}", file=sys.stderr)
    if kind is None:
        about = {"seed": seed, "files_of_each_kind": files, "kinds": found}
        RESULTS.write_text(json.dumps(about, indent=1) + "\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    typer.run(main)
