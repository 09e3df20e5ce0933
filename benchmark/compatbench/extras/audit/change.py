"""What a working tree changes against its base: its files, by git's command line, and its results.

Nothing of the base is run.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from compatbench.data.cards import COPIED
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.stored_suite import PLACE
from compatbench.extras.audit.tolerance import EPSILON, Tolerance, find_drift
from compatbench.files.scratch import scratch_folder
from compatbench.method.registry import is_transfer
from compatbench.results.expected import Expected
from compatbench.results.method_results import SuiteResults
from compatbench.results.result_files import RESULTS, check_name, read_results
from compatbench.tables.markdown import escape

WORDS = {
    "within": f"within {EPSILON:.0%} of the images",
    "beyond": "moved by more",
    "added": "added",
    "removed": "removed",
}
SHOWN = 20  # problems of one file


@dataclass(frozen=True)
class Change:
    """A working tree against the commit that it grew from; paths are relative to its root."""

    root: Path
    base: str  # the newest commit that it shares with the base branch
    name: str  # what the base was asked for as
    changed: frozenset[str]  # added or modified, committed or not
    deleted: frozenset[str]

    def read_base(self, folder: str) -> dict[str, bytes]:
        """The files of a folder as they are at the base, by their path below the root."""
        paths = self._list_base(folder)
        return {path: _git(self.root, "cat-file", "blob", f"{self.base}:{path}") for path in paths}

    def list_base_results(self) -> set[str]:
        """The methods that have rows at the base, in any suite."""
        paths = map(Path, self._list_base(RESULTS))
        return {path.stem for path in paths if path.suffix == ".csv" and len(path.parts) == 3}

    def _list_base(self, folder: str) -> list[str]:
        listing = ("ls-tree", "-r", "-z", "--name-only", self.base, f"{folder}/")
        return _split(_git(self.root, *listing))


def find_change(folder: Path, base: str | None) -> Change:
    """What the working tree around a folder changes; ``check_pull_request`` says which base."""
    if not folder.is_dir():
        raise CompatbenchError(f"there is no folder {folder}")
    problem = (
        f"{folder.resolve()} is not in a git clone; 'compatbench ci' compares one with its base"
    )
    root = Path(_git(folder, "rev-parse", "--show-toplevel", problem=problem).decode().strip())
    name, commit = _find_commit(root, base)
    problem = (
        f"'{name}' and this branch share no commit here; fetch their history: "
        "git fetch --unshallow origin"
    )
    shared = _git(root, "merge-base", "--end-of-options", commit, "HEAD", problem=problem)
    start = shared.decode().strip()
    # A rename is one file gone and another added.
    options = ["--no-renames", "--no-ext-diff", "--name-status", "-z", start, "--"]
    words = _split(_git(root, "diff", *options))
    states = dict(zip(words[1::2], words[::2], strict=True))
    deleted = {path for path, status in states.items() if status == "D"}
    untracked = _split(_git(root, "ls-files", "--others", "--exclude-standard", "-z"))
    changed = states.keys() - deleted | {*untracked}
    return Change(root, start, name, frozenset(changed), frozenset(deleted - changed))


def _find_commit(root: Path, base: str | None) -> tuple[str, str]:
    """The name and the commit of the base."""
    target = os.environ.get("GITHUB_BASE_REF")
    names = [f"origin/{target}"] if target else ["origin/main", "main"]
    names = [base] if base else names
    for name in names:
        options = ["--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
        with suppress(CompatbenchError):
            return name, _git(root, "rev-parse", *options).decode().split()[-1]
    raise CompatbenchError(
        f"git knows no commit '{names[0]}' here; fetch it (git fetch origin), or give another: "
        "--base BRANCH"
    )


def _split(output: bytes) -> list[str]:
    return [os.fsdecode(part) for part in output.split(b"\0") if part]


def _git(folder: Path, *arguments: str, problem: str = "") -> bytes:
    """What a command of git prints; one that fails is an error, of which git says the reason."""
    command = ["git", "-c", "core.fsmonitor=false", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    except OSError as error:
        problem = f"'git' was not found; install it, or add its folder to PATH ({error.strerror})"
        raise CompatbenchError(problem) from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise CompatbenchError(problem or f"git {arguments[0]} failed: {reason}")
    return done.stdout


def read_base_results(change: Change, suite: str) -> SuiteResults:
    """A suite's results as they are at the base."""
    with scratch_folder() as place:
        folder = place / RESULTS / check_name(suite, "suite")
        folder.mkdir(parents=True)
        for path, content in change.read_base(f"{RESULTS}/{suite}").items():
            if Path(path).parent.name != suite:
                continue  # a record of tuning
            (folder / check_name(Path(path).name, "file")).write_bytes(content)
        try:
            return read_results(folder)
        except CompatbenchError as error:
            message = str(error).replace(f"{place}/", "")
            raise CompatbenchError(f"at the base '{change.name}': {message}") from None


def compare_with_base(before: SuiteResults, after: SuiteResults) -> pd.DataFrame:
    """The rows of a suite on both sides, by method and place.

    ``images`` says how many more are right (all, if one side has no number), ``same_key`` whether
    it is the same module on the same data, and ``change`` what became of the row; ``within`` is
    what rounding on another machine may cause.
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


def find_problems(rows: pd.DataFrame, expected: Expected, same_machine: bool) -> list[str]:
    """Rows of a method that are gone, though the suite asks for them, and rewritten counts.

    Under one key no count may change. Where both sides do not say that they were made by the same
    processor and versions, all changes are tested as a whole, as by an audit.
    """
    test_sets = {(task, task) for task in expected.measured_tasks}
    test_sets |= {(task, name) for task, names in expected.variants.items() for name in names}
    backbones = {*expected.upgrades, *((name, name) for pair in expected.upgrades for name in pair)}
    asked = [
        row
        for row in rows.query("change == 'removed'").to_dict("records")
        if (row["task"], row["test_set"]) in test_sets
        and (row["source"], row["backbone"]) in backbones
        and row["shots"] in expected.shots
        and row["seed"] in expected.seeds
        and is_transfer(row["transfer"])
    ]
    first = [f"the first of {_place(row)}" for row in asked[:1]]
    problems = [f"{len(asked)} rows of the base were removed, {place}" for place in first]
    same = rows.query("same_key and change in ['equal', 'within', 'beyond']")
    rewritten = (
        same.loc[same["change"] != "equal"] if same_machine else same.query("change == 'beyond'")
    )
    for row in rewritten.head(SHOWN).to_dict("records"):
        counts = f"from {row['correct_base']} to {row['correct']}"
        problems.append(
            f"{_place(row)}: 'correct' went {counts} under one key, which means the same module"
        )
    if not same_machine:
        problems += [str(one) for one in find_drift(same.assign(file="against the base"))]
    return problems


def _place(row: Mapping[str, Any]) -> str:
    transfer = "" if row["transfer"] == COPIED else f", by transfer '{row['transfer']}'"
    return (
        f"{row['task']} from {row['source']}, {row['shots']} shots, seed {row['seed']}, at "
        f"{row['backbone']} on {row['test_set']}{transfer}"
    )
