"""A suite's results beside those of the base: nothing removed, and how far figures moved."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from compatbench.audit.change import Change
from compatbench.audit.stored_suite import PLACE
from compatbench.audit.tolerance import EPSILON, Tolerance
from compatbench.data.shots import count_shots
from compatbench.errors import CompatbenchError
from compatbench.pages.markdown import code, escape, percent, signed, spread, table
from compatbench.pages.suite_page import RESULTS
from compatbench.results.measures import Expected, compute_standing
from compatbench.results.store import MethodResults, SuiteResults, check_name, read_results
from compatbench.transfer import COPIED, TRANSFERS

# The floor, the strongest plain method, and the method of the founding paper.
REFERENCES = ("zeroshot", "kgcoop", "contcoop")
HEADER = ["Method", "Source", "Target", "H", "Gain", "H at the base", "Change of H"]
WORDS = {
    "within": f"within {EPSILON:.0%} of the images",
    "beyond": "moved by more",
    "added": "added",
    "removed": "removed",
}
SHOWN = 20  # problems of one file


def read_base_results(change: Change, suite: str) -> SuiteResults:
    """A suite's results as they are at the base.

    Raises:
        CompatbenchError: the base's own files are broken.
    """
    with tempfile.TemporaryDirectory(prefix="compatbench-base-") as place:
        folder = Path(place) / RESULTS / check_name(suite, "suite")
        folder.mkdir(parents=True)
        for path, content in change.read_base(f"{RESULTS}/{suite}").items():
            (folder / check_name(Path(path).name, "file")).write_bytes(content)
        try:
            return read_results(folder)
        except CompatbenchError as error:
            message = str(error).replace(f"{place}/", "")
            raise CompatbenchError(f"at the base '{change.name}': {message}") from None


def compare_with_base(before: SuiteResults, after: SuiteResults) -> pd.DataFrame:
    """The rows of a suite on both sides, by method and place.

    Returns:
        One row for each measurement, with ``correct`` and ``correct_base``, ``images`` (how many
        more are right; all of them, if one side has no number), ``same_key`` (whether it is the
        same module on the same data) and ``change``: ``added``, ``removed``, ``equal``, ``within``
        what rounding on another machine may cause, or ``beyond`` that.
    """
    both = before.frame.merge(
        after.frame, how="outer", on=["method", *PLACE], suffixes=("_base", ""), indicator=True
    )
    total = both["total"].fillna(both["total_base"]).fillna(1)
    unlike = (both["status"] != both["status_base"]).astype("Int64")
    both["images"] = (both["correct"] - both["correct_base"]).fillna(unlike * total)
    both["same_key"] = (both["key"] == both["key_base"]) & (both["data"] == both["data_base"])
    within = both["images"].abs() <= total.map(Tolerance(EPSILON).of)
    sides = [both["_merge"] == "right_only", both["_merge"] == "left_only"]
    both["change"] = np.select(
        [*sides, both["images"] == 0, within], ["added", "removed", "equal", "within"], "beyond"
    )
    return both.sort_values(PLACE)


def describe_rows(rows: pd.DataFrame) -> str:
    """How many rows are as before, and how far the others moved."""
    counts = Counter(rows["change"])
    parts = [f"{counts['equal']} rows as before"]
    parts += [f"{counts[kind]} {word}" for kind, word in WORDS.items() if kind in counts]
    moved = rows.query("change in ['within', 'beyond']").to_dict("records")
    if moved:
        largest = max(moved, key=lambda row: abs(row["images"]))
        parts.append(f"the most by {largest['images']:+} images, {escape(_place(largest))}")
    return ", ".join(parts)


def find_problems(rows: pd.DataFrame, expected: Expected) -> list[str]:
    """Rows of the base that are gone, though the suite asks for them, and rewritten counts."""
    problems = []
    removed = rows.query("change == 'removed'").to_dict("records")
    if asked := [row for row in removed if _asks_for(expected, row)]:
        first = f"the first of {_place(asked[0])}"
        problems.append(f"{len(asked)} rows of the base were removed, {first}")
    rewritten = rows.query("change == 'beyond' and same_key").head(SHOWN)
    for row in rewritten.to_dict("records"):
        counts = f"from {row['correct_base']} to {row['correct']}"
        problems.append(
            f"{_place(row)}: 'correct' went {counts} under one key, which means the same module"
        )
    return problems


def _asks_for(expected: Expected, row: Mapping[str, Any]) -> bool:
    """Whether the suite, as it is now, has a measurement."""
    task, source, backbone = row["task"], row["source"], row["backbone"]
    return (
        row["transfer"] in TRANSFERS
        and task in expected.tasks
        and row["test_set"] in (task, *expected.variants.get(task, ()))
        and row["shots"] in expected.shots
        and row["seed"] in expected.seeds
        and source in {name for pair in expected.upgrades for name in pair}
        and (backbone == source or (source, backbone) in expected.upgrades)
    )


def _place(row: Mapping[str, Any]) -> str:
    transfer = "" if row["transfer"] == COPIED else f", by transfer '{row['transfer']}'"
    return (
        f"{row['task']} from {row['source']}, {row['shots']} shots, seed {row['seed']}, at "
        f"{row['backbone']} on {row['test_set']}{transfer}"
    )


def comparison_tables(
    expected: Expected,
    results: Mapping[str, MethodResults],
    base: Mapping[str, MethodResults],
    methods: Sequence[str],
) -> list[str]:
    """A table for each upgrade of a suite, at its largest number of shots.

    Args:
        results, base: the methods' rows with copied modules.
        methods: whose figures may have changed; they stand beside fixed references.
    """
    shots = max(expected.shots)
    shown = [name for name in dict.fromkeys([*methods, *REFERENCES]) if name in results]
    lines: list[str] = []
    for upgrade in expected.upgrades:
        rows = []
        for name in shown:
            now = compute_standing(results[name], expected, upgrade, shots)
            h, gain, old = now.mean("h"), now.mean("gain"), None
            if name in base:
                old = compute_standing(base[name], expected, upgrade, shots).mean("h")
            rows.append(
                [
                    f"{escape(name)}{'' if name in methods else ' (reference)'}",
                    spread(now.mean("source")),
                    spread(now.mean("target")),
                    spread(h) if h else escape(now.state),
                    signed(gain.value if gain else None),
                    percent(old.value if old else None) if name in base else "new",
                    signed(h.value - old.value if h and old else None),
                ]
            )
        title = f"{code(upgrade[0])} → {code(upgrade[1])}, {count_shots(shots)}:"
        lines += ["", title, "", *table(HEADER, rows)]
    return lines
