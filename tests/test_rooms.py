"""The harness's rooms: who imports whom, and what docs/how-it-works.md says of it."""

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
CONTENT = ("methods", "transfers", "formats")  # what stands beside the harness


@cache
def modules() -> dict[str, Path]:
    """Every module of the harness by its dotted name below ``compatbench``."""
    paths = {}
    for path in HARNESS.rglob("*.py"):
        parts = path.relative_to(HARNESS).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


@cache
def parse(path: Path) -> tuple[ast.AST, ...]:
    """All that is in a file."""
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


def test_a_module_imports_only_from_its_own_room_and_those_below() -> None:
    above = {
        (module, other)
        for module, path in modules().items()
        if module not in ("", "__main__")  # the package itself hands out what ``api`` has
        for other, _ in imports_of(path)
        if other and room_of(other) != room_of(module)
        if room_of(other) not in CONTENT and LEVEL[room_of(other)] >= LEVEL[room_of(module)]
    }
    assert above == set()


@cache
def imported_modules() -> dict[str, set[str]]:
    """Return what each module imports, for type checking too; the package itself is left out."""
    imported = {}
    for module, path in modules().items():
        if module:
            others = {other for other, _ in imports_of(path) if other in modules()}
            imported[module] = others - {module}
    return imported


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The largest sets of nodes of which each reaches every other."""

    def reached_from(node: str) -> set[str]:
        reached: set[str] = set()
        ahead = [node]
        while ahead:
            new = graph.get(ahead.pop(), set()) - reached
            reached |= new
            ahead += new
        return reached

    reached = {node: reached_from(node) for node in graph}
    return {
        frozenset(other for other in reached[node] if node in reached.get(other, ()))
        for node in graph
        if node in reached[node]
    }


def test_there_is_no_circle_of_imports() -> None:
    assert circles(imported_modules()) == set()


def test_there_is_no_circle_of_folders() -> None:
    def folder_of(module: str) -> str:
        folder = modules()[module].parent.relative_to(HARNESS)
        return ".".join(folder.parts) or module  # files beside the rooms are no folder

    graph: dict[str, set[str]] = {}
    for module, others in imported_modules().items():
        folders = {folder_of(other) for other in others}
        graph.setdefault(folder_of(module), set()).update(folders - {folder_of(module)})
    assert circles(graph) == set()


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_private_names_stay_in_their_module() -> None:
    for module, path in modules().items():
        imports = list(imports_of(path))
        # ``from compatbench.room import module`` makes ``module._name`` reachable.
        imported = {other.rpartition(".")[2] for other, name in imports if not name}
        reached = [
            f"{node.value.id}.{node.attr}"
            for node in parse(path)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if node.value.id in imported and is_private(node.attr)
        ]
        private = [f"{other}.{name}" for other, name in imports if is_private(name)]
        assert [*reached, *private] == [], module


def test_imports_are_absolute() -> None:
    for module, path in modules().items():
        relative = [
            node.lineno for node in parse(path) if isinstance(node, ast.ImportFrom) and node.level
        ]
        assert relative == [], module


def test_the_harness_imports_no_content() -> None:
    """Content is found by name; extras may share a helper of it."""
    for module, path in modules().items():
        imported = [other for other, _ in imports_of(path)]
        if room_of(module) == "extras":
            imported = [other for other in imported if "._shared" not in other]
        assert not {room_of(other) for other in imported} & {*CONTENT, "tasks"}, module


@pytest.mark.parametrize("folder", CONTENT)
def test_content_uses_what_the_harness_offers_it(folder: str) -> None:
    for path in (REPOSITORY / folder).rglob("*.py"):
        rooms = {room_of(other) for other, _ in imports_of(path)} - {""}
        assert rooms <= {"method", "backbone", "errors", "messages", folder}, path


def test_the_page_shows_the_rooms_in_their_order() -> None:
    page = (REPOSITORY / "docs" / "how-it-works.md").read_text()
    table = page.split("| room | what is in it |")[1].split("\n\n")[0]
    shown = [tuple(re.findall(r"`(\w+)`", row.split("|")[1])) for row in table.splitlines()[2:]]
    assert shown == list(reversed(LEVELS[1:]))


def test_the_page_says_where_ten_changes_are_made() -> None:
    page = (REPOSITORY / "docs" / "how-it-works.md").read_text()
    rows = page.split("| what | where |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(rows) == 10
    for path in re.findall(r"`([\w/]+(?:/|\.py))`", " ".join(rows)):
        assert (HARNESS / path).exists() or (REPOSITORY / path).is_dir(), path


def shared_by_files(names: Iterable[tuple[str, Path]]) -> dict[str, list[str]]:
    """Return the names that several files have, with these files."""
    files: dict[str, list[str]] = {}
    for name, path in names:
        files.setdefault(name, []).append(str(path.relative_to(HARNESS)))
    return {name: found for name, found in files.items() if len(found) > 1}


def test_no_two_files_have_one_name() -> None:
    files = [(path.name, path) for path in modules().values() if path.name != "__init__.py"]
    assert shared_by_files(files) == {}


def test_no_two_classes_have_one_name() -> None:
    """Classes inside of a class, such as a method's ``Config``, are named by what holds them."""
    classes = []
    for path in modules().values():
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ClassDef):
                classes.append((node.name, path))
    assert shared_by_files(classes) == {}
