"""What a working tree changes against its base, from git's command line; nothing of it is run."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from compatbench.errors import CompatbenchError


@dataclass(frozen=True)
class Change:
    """A working tree against the commit that it grew from.

    Attributes:
        root: the top folder of the clone.
        base: the commit where the change began: the newest that it shares with the base branch.
        name: what the base was asked for as.
        changed: paths relative to the root that were added or modified, committed or not.
        deleted: paths that are gone.
    """

    root: Path
    base: str
    name: str
    changed: frozenset[str]
    deleted: frozenset[str]

    def read_base(self, folder: str) -> dict[str, bytes]:
        """The files of a folder as they are at the base, by their path below the root."""
        listing = ("ls-tree", "-r", "-z", "--name-only", self.base, f"{folder}/")
        paths = _split(_git(self.root, *listing))
        return {path: _git(self.root, "cat-file", "blob", f"{self.base}:{path}") for path in paths}


class _GitFailed(CompatbenchError):
    """git ended with an error."""


def find_change(folder: Path, base: str | None) -> Change:
    """What the working tree around a folder changes.

    Args:
        base: a branch, tag or commit; by default what ``GITHUB_BASE_REF`` names on the remote
            ``origin``, then ``origin/main``, then ``main``.

    Raises:
        CompatbenchError: there is no git, no clone, no such base, or no shared history.
    """
    try:
        root = Path(_git(folder, "rev-parse", "--show-toplevel").decode().strip())
    except _GitFailed:
        raise CompatbenchError(
            f"{folder.resolve()} is not in a git clone; 'compatbench ci' compares a clone with its "
            "base"
        ) from None
    name, commit = _find_commit(root, base)
    try:
        start = _git(root, "merge-base", "--end-of-options", commit, "HEAD").decode().strip()
    except _GitFailed:
        raise CompatbenchError(
            f"'{name}' and this branch share no commit here; fetch their history: "
            "git fetch --unshallow origin"
        ) from None
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
    guesses = [f"origin/{target}"] if target else ["origin/main", "main"]
    names = [base] if base else guesses
    for name in names:
        options = ["--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
        try:
            return name, _git(root, "rev-parse", *options).decode().split()[-1]
        except _GitFailed:
            continue
    raise CompatbenchError(
        f"git knows no commit '{names[0]}' here; fetch it (git fetch origin), or give another: "
        "--base BRANCH"
    )


def _split(output: bytes) -> list[str]:
    return [os.fsdecode(part) for part in output.split(b"\0") if part]


def _git(folder: Path, *arguments: str) -> bytes:
    if not folder.is_dir():
        raise CompatbenchError(f"there is no folder {folder}")
    command = ["git", "-c", "core.fsmonitor=false", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    except OSError as error:
        problem = f"'git' was not found; install it, or add its folder to PATH ({error.strerror})"
        raise CompatbenchError(problem) from None
    if done.returncode:
        text = done.stderr.decode(errors="replace").strip().splitlines()
        raise _GitFailed(f"git {arguments[0]} failed: {text[0] if text else done.returncode}")
    return done.stdout
