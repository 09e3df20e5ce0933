"""What a working tree changes against its base: files, methods, results; and what it may not bring.

Nothing of either side is run.
"""

from __future__ import annotations

import ast
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from compatbench.errors import CompatbenchError
from compatbench.files.scratch import scratch_folder
from compatbench.method.identity import local_files
from compatbench.results.method_results import SuiteResults
from compatbench.results.result_files import PUBLISHED, RESULTS, check_name, read_results
from compatbench.tables.pages.leaderboard import LEADERBOARD, METHOD_PAGES

# What a measurement rests on, besides methods and what keys name.
HARNESS = ("benchmark/compatbench/", "tasks/mini/", "tasks/__init__.py", "setup.cfg", "pyproject")
# What is made of methods, and nobody writes.
MADE_OF_METHODS = (
    f"{RESULTS}/",
    LEADERBOARD,
    f"{METHOD_PAGES}/",
    "docs/methods.md",
    "docs/recipes.",
    "docs/authors.md",
    "tests/golden/outputs/",
    "benchmark/compatbench/tables/pages/methods.json",
)
DATA = (".csv", ".json", ".safetensors", ".txt")  # beside methods, as setup.cfg packages them


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


def find_methods(change: Change) -> tuple[str, ...]:
    """The method files that a change touches, or whose local imports or data files it touches."""
    touched = {(change.root / name).resolve() for name in change.changed}
    return tuple(
        path.relative_to(change.root).as_posix()
        for path in _method_files(change)
        if (local_files(path) | {*declared_files(path)}) & touched
    )


def _method_files(change: Change) -> list[Path]:
    return [*filter(Path.is_file, sorted((change.root / "methods").glob("[!_]*.py")))]


def declared_files(path: Path) -> list[Path]:
    """The data files on the cards of a method's file, which is not run.

    ``files`` of a card is a tuple of texts, or of names that the file gives a text.

    Raises:
        CompatbenchError: it is something else.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []  # it cannot be loaded, which is told as such
    texts = {
        target.id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    declared = [(each, word) for each in calls for word in each.keywords if word.arg == "files"]
    names = list[Path]()
    for call, word in declared:
        if "Card" not in ast.unparse(call.func):
            continue
        listed = texts.get(word.value.id) if isinstance(word.value, ast.Name) else word.value
        parts = listed.elts if isinstance(listed, (ast.Tuple, ast.List)) else [None]
        for part in parts:
            value = texts.get(part.id) if isinstance(part, ast.Name) else part
            if not isinstance(value, ast.Constant) or not isinstance(value.value, str):
                raise CompatbenchError(
                    f"{path}:{word.value.lineno}: 'files' cannot be read without running the file; "
                    "write texts, or names of texts of this file: files=('mine.json',)"
                )
            names.append((path.parent / value.value).resolve())
    return names


def check_change(change: Change) -> Iterator[str]:
    """What a change may not bring along: its own weights or splits, links, what is made of it."""
    declared = {file for path in _method_files(change) for file in declared_files(path)}
    for name in sorted(change.changed):
        path = change.root / name
        top, suffix = Path(name).parts[0], path.suffix
        if top in ("methods", "tasks") and path.is_symlink():
            yield f"{name}: is a link; put what it leads to in its place"
        elif top == "methods" and suffix != ".py" and path.exists():
            if suffix not in DATA:
                yield f"{name}: data of a method is packaged as {', '.join(DATA)} alone"
            elif path.resolve() not in declared:
                yield f"{name}: no method names it on its card: files=('{path.name}',)"
        elif top == "tasks" and suffix not in (".yaml", ".py", ".md"):
            what = "ships with the project, and a change cannot be judged by its own files"
            yield f"{name}: {what}; the project's owner has to add it"
    made = sorted(filter(is_made, change.changed))
    if made and not touches_harness(change):
        more = f" and {len(made) - 1} more" if len(made) > 1 else ""
        yield f"{made[0]}{more}: leave out what 'compatbench maintain submit' makes after the merge"


def is_made(name: str) -> bool:
    """Whether a path is of what follows from methods, and no one writes by hand."""
    return name.startswith(MADE_OF_METHODS) and not name.startswith(f"{RESULTS}/{PUBLISHED}/")


def touches_harness(change: Change) -> bool:
    return any(name.startswith(HARNESS) and not is_made(name) for name in change.changed)
