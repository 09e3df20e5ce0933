"""Imports between the rooms of the harness, and the page docs/how-it-works.md about them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
HARNESS = REPOSITORY / "benchmark" / "compatbench"

# From the lowest to the highest; rooms of one level do not import each other.
LEVELS = (
    ("errors", "engine_version", "harmonic_mean", "messages", "plugins"),
    ("files",),
    ("data",),
    ("backbone",),
    ("method",),
    ("engine",),
    ("results",),
    ("tables",),
    ("runs",),
    ("cli",),
    ("extras",),
)
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
CONTENT = ("methods", "transfers", "formats")  # folders beside the harness


@cache
def modules() -> dict[str, Path]:
    """Return every module of the harness by its dotted name below ``compatbench``."""
    paths = {}
    for path in HARNESS.rglob("*.py"):
        parts = list(path.relative_to(HARNESS).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        paths[".".join(parts)] = path
    return paths


@cache
def parse(path: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of a file."""
    return tuple(ast.walk(ast.parse(path.read_bytes())))


def imports_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (module below ``compatbench``, name) of every import of a file, wherever it is."""
    for node in parse(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("compatbench"):
            module = (node.module or "").removeprefix("compatbench").lstrip(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                yield (inner, "") if inner in modules() else (module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("compatbench."):
                    yield alias.name.removeprefix("compatbench."), ""


def room_of(module: str) -> str:
    return module.partition(".")[0]


def test_modules_import_only_from_their_own_room_and_those_below() -> None:
    above = set()
    for module, path in modules().items():
        if module in ("", "__main__"):  # the package offers the functions of ``api``
            continue
        room = room_of(module)
        for other, _ in imports_of(path):
            other_room = room_of(other)
            if not other or other_room in (room, *CONTENT):
                continue
            if LEVEL[other_room] >= LEVEL[room]:
                above.add((module, other))
    assert above == set()


@cache
def imported_modules() -> dict[str, set[str]]:
    """Return the imports of each module but the package, type-checking imports included."""
    imported = {}
    for module, path in modules().items():
        if module:
            others = {other for other, _ in imports_of(path) if other in modules()}
            imported[module] = others - {module}
    return imported


def cycles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Return the largest sets of nodes in which each node reaches every other."""

    def reached_from(node: str) -> set[str]:
        reached: set[str] = set()
        ahead = [node]
        while ahead:
            new = graph.get(ahead.pop(), set()) - reached
            reached |= new
            ahead += new
        return reached

    reached = {node: reached_from(node) for node in graph}
    found = set()
    for node in graph:
        if node in reached[node]:
            cycle = [other for other in reached[node] if node in reached.get(other, ())]
            found.add(frozenset(cycle))
    return found


def test_imports_have_no_cycles() -> None:
    assert cycles(imported_modules()) == set()


def test_folders_have_no_import_cycles() -> None:
    def folder_of(module: str) -> str:
        folder = modules()[module].parent.relative_to(HARNESS)
        return ".".join(folder.parts) or module  # a file beside the rooms stands for itself

    graph: dict[str, set[str]] = {}
    for module, others in imported_modules().items():
        folders = {folder_of(other) for other in others}
        graph.setdefault(folder_of(module), set()).update(folders - {folder_of(module)})
    assert cycles(graph) == set()


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_private_names_stay_in_their_module() -> None:
    for module, path in modules().items():
        imports = list(imports_of(path))
        # ``from compatbench.room import module`` makes ``module._name`` reachable.
        imported = {other.rpartition(".")[2] for other, name in imports if not name}
        reached = []
        for node in parse(path):
            if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
                continue
            if node.value.id in imported and is_private(node.attr):
                reached.append(f"{node.value.id}.{node.attr}")
        private = [f"{other}.{name}" for other, name in imports if is_private(name)]
        assert [*reached, *private] == [], module


def test_imports_are_absolute() -> None:
    for module, path in modules().items():
        for node in parse(path):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}, line {node.lineno}"


def test_harness_imports_no_content() -> None:
    """Content is found by name; only extras may use its shared helpers."""
    for module, path in modules().items():
        for other, _ in imports_of(path):
            if room_of(module) == "extras" and "._shared" in other:
                continue
            assert room_of(other) not in (*CONTENT, "tasks"), module


@pytest.mark.parametrize("folder", CONTENT)
def test_content_imports_only_the_rooms_offered_to_it(folder: str) -> None:
    for path in (REPOSITORY / folder).rglob("*.py"):
        rooms = {room_of(other) for other, _ in imports_of(path)} - {""}
        assert rooms <= {"method", "backbone", "errors", "messages", folder}, path


def test_page_lists_the_rooms_in_order() -> None:
    page = (REPOSITORY / "docs" / "how-it-works.md").read_text()
    table = page.split("| room | what is in it |")[1].split("\n\n")[0]
    shown = [tuple(re.findall(r"`(\w+)`", row.split("|")[1])) for row in table.splitlines()[2:]]
    assert shown == list(reversed(LEVELS[1:]))


def test_page_names_existing_files_for_typical_changes() -> None:
    page = (REPOSITORY / "docs" / "how-it-works.md").read_text()
    rows = page.split("| what | where |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(rows) >= 10
    for path in re.findall(r"`([\w/]+(?:/|\.py))`", " ".join(rows)):
        assert (HARNESS / path).exists() or (REPOSITORY / path).is_dir(), path


def test_page_follows_a_run_through_fifteen_files_and_each_once() -> None:
    page = (REPOSITORY / "docs" / "how-it-works.md").read_text()
    picture = page.split("```text\n")[1].split("```")[0]
    # Files in brackets are helpers that a reader can leave out.
    steps = re.findall(r"\b[\w/]+\.py\b", re.sub(r"\([^)]*\)", "", picture))
    assert len(steps) == len(set(steps)) <= 15
    for path in re.findall(r"\b[\w/]+/\w+\.py\b", picture):
        assert (HARNESS / path).is_file(), path


def shared_by_files(names: Iterable[tuple[str, Path]]) -> dict[str, list[str]]:
    """Return the names that several files have, with these files."""
    files: dict[str, list[str]] = {}
    for name, path in names:
        files.setdefault(name, []).append(str(path.relative_to(HARNESS)))
    return {name: found for name, found in files.items() if len(found) > 1}


def test_file_names_are_unique() -> None:
    files = [(path.name, path) for path in modules().values() if path.name != "__init__.py"]
    assert shared_by_files(files) == {}


def test_class_names_are_unique() -> None:
    """Classes inside of a class, such as a method's ``Config``, are named by what holds them."""
    classes = []
    for path in modules().values():
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ClassDef):
                classes.append((node.name, path))
    assert shared_by_files(classes) == {}
