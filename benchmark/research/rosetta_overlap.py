"""Count the test drawings of suite ``mini`` that the design of Rosetta had already used.

Rosetta was designed on tasks of the first version of the mini suite, which are in the repository's
history. A drawing is recognised by its icon set and the name of its class: tile numbers changed.

python benchmark/research/rosetta_overlap.py     # writes rosetta_overlap.csv; needs the history
"""

from __future__ import annotations

import csv
import io
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
COUNTS = Path(__file__).with_suffix(".csv")
COMMIT = "de68f20f10ffa646f78a5227aca35c23bdff0b84"  # the last one with the first version
DESIGN = ("animals", "icons", "play", "travel")
# The first frozen configuration was measured on these before the second was chosen.
FIRST_HELD_OUT = ("food", "objects", "science", "weather")
TASKS = ("faces", "food", "layouts", "objects", "people", "science", "signs", "weather")

Drawing = tuple[str, str]  # icon set and class


def read_old(path: str) -> str:
    """Return a file of the first version from the repository's history."""
    command = ["git", "-C", str(ROOT), "show", f"{COMMIT}:{path}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def list_drawings(card: str, splits: str, split: str = "") -> list[Drawing]:
    """Return the drawings of a task; with a ``split``, those of it alone."""
    classes = yaml.safe_load(card)["classes"]
    drawings = []
    for row in csv.DictReader(io.StringIO(splits)):
        if split in ("", row["split"]):
            drawings.append((row["set"], classes[int(row["label"])]))
    return drawings


def read_old_drawings(tasks: tuple[str, ...]) -> set[Drawing]:
    """Return all drawings of some tasks of the first version, those of every split."""
    drawings: set[Drawing] = set()
    for task in tasks:
        card = read_old(f"tasks/mini-{task}.yaml")
        drawings.update(list_drawings(card, read_old(f"tasks/mini/splits/{task}.csv")))
    return drawings


def count_overlap() -> list[dict[str, str | int]]:
    """Return a record per task: its test drawings, and how many of them were used before."""
    design = read_old_drawings(DESIGN)
    held_out = read_old_drawings(FIRST_HELD_OUT) - design
    counts: list[dict[str, str | int]] = []
    for task in TASKS:
        card = (ROOT / f"tasks/mini-{task}.yaml").read_text(encoding="utf-8")
        splits = (ROOT / f"tasks/mini/splits/{task}.csv").read_text(encoding="utf-8")
        tested = list_drawings(card, splits, "test")
        counts.append(
            {
                "task": task,
                "tested": len(tested),
                "in_design": sum(drawing in design for drawing in tested),
                "in_first_held_out": sum(drawing in held_out for drawing in tested),
            }
        )
    return counts


def main() -> None:
    """Write the counts."""
    counts = count_overlap()
    with COUNTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(counts[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(counts)


if __name__ == "__main__":
    main()
