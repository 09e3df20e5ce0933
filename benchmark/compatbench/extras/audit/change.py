"""What a working tree changes against its base: its files, by git's command line, and its results.

Nothing of the base is run.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from compatbench.errors import CompatbenchError
from compatbench.extras.audit.suite_checks import find_moved
from compatbench.files.scratch import scratch_folder
from compatbench.results.method_results import SuiteResults
from compatbench.results.result_files import RESULTS, check_name, read_results
from compatbench.results.rows import Row


@dataclass(frozen=True)
class Change:
    """A working tree against the commit that it grew from; paths are relative to its root."""

    root: Path
    base: str  # the newest commit that it shares with the base branch
    name: str  # what the base was asked for as
    changed: frozenset[str]  # added, modified or deleted, committed or not
    uncommitted: str = ""  # the first file that is not, and how many more


def find_change(folder: Path, base: str | None) -> Change:
    """What the working tree around a folder changes; ``check_pull_request`` says which base."""
    if not folder.is_dir():
        raise CompatbenchError(f"there is no folder {folder}")
    what = "'compatbench maintain ci' compares a clone with its base"
    problem = f"{folder.resolve()} is not in a git clone; {what}"
    root = Path(_git(folder, "rev-parse", "--show-toplevel", problem=problem).decode().strip())
    name, commit = _find_commit(root, base)
    problem = (
        f"'{name}' and this branch share no commit here; fetch their history: "
        "git fetch --unshallow origin"
    )
    shared = _git(root, "merge-base", "--end-of-options", commit, "HEAD", problem=problem)
    start = shared.decode().strip()
    # A rename is one file gone and another added.
    listing = _git(root, "diff", "--no-renames", "--no-ext-diff", "--name-only", "-z", start, "--")
    listing += _git(root, "ls-files", "--others", "--exclude-standard", "-z")
    changed = frozenset(filter(None, os.fsdecode(listing).split("\0")))
    status = os.fsdecode(_git(root, "status", "--porcelain", "--no-renames", "-uall", "-z"))
    first, *others = filter(None, status.split("\0")) if status else ("",)
    more = f" and {len(others)} more" if others else ""
    return Change(root, start, name, changed, f"{first[3:]}{more}")


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
    folder = f"{RESULTS}/{check_name(suite, 'suite')}"
    with scratch_folder() as place:
        if _git(change.root, "ls-tree", change.base, folder):
            archive = io.BytesIO(_git(change.root, "archive", change.base, folder))
            with tarfile.open(fileobj=archive) as files:
                files.extractall(place, filter="data")
        try:
            return read_results(place / folder)
        except CompatbenchError as error:
            message = str(error).replace(f"{place}/", "")
            raise CompatbenchError(f"at the base '{change.name}': {message}") from None


def compare_with_base(before: SuiteResults, after: SuiteResults) -> pd.DataFrame:
    """The rows of a suite on both sides, by method and place.

    ``same_key`` says whether it is the same module on the same data, and ``change`` what became of
    the row: ``added``, ``removed``, ``equal`` or ``moved``, if any measured value is another.
    """
    on = ["method", *Row.place]
    both = before.frame.merge(
        after.frame, how="outer", on=on, suffixes=("_base", ""), indicator=True
    )
    moved = find_moved(both, "_base").any(axis=1)
    both["same_key"] = (both["key"] == both["key_base"]) & (both["data"] == both["data_base"])
    sides = [both["_merge"] == "right_only", both["_merge"] == "left_only", moved]
    both["change"] = np.select(sides, ["added", "removed", "moved"], "equal")
    return both.sort_values(list(Row.place))
