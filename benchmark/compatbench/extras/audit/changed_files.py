"""The files of a change: which methods it touches, and what it may not bring along.

Nothing of it is run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from compatbench.errors import CompatbenchError
from compatbench.extras.audit.change import Change
from compatbench.method.identity import local_files
from compatbench.results.result_files import PUBLISHED, RESULTS
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
    "docs/scale.",
    "tests/golden/outputs/",
    "benchmark/compatbench/engine/launches.csv",
    "benchmark/compatbench/tables/pages/methods.json",
)
DATA = (".csv", ".json", ".safetensors", ".txt")  # beside methods, as setup.cfg packages them


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
    given = [(each, word) for each in calls for word in each.keywords if word.arg == "files"]
    names = list[Path]()
    for call, word in given:
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
