"""The harness's rooms: who imports whom, and what docs/how-it-works.md says of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
HARNESS = REPOSITORY / "benchmark" / "compatbench"

# From the lowest to the highest; rooms of one level do not import each other.
LEVELS = (
    ("errors", "engine_version", "harmonic_mean"),
    ("files",),
    ("data",),
    ("backbone",),
    ("method",),
    ("engine",),
    ("results",),
    ("tables",),
    ("extras",),
    ("api",),
    ("cli",),
)
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
CONTENT = {"formats", "transfers"}  # what stands beside the harness
MOST_LINES = 360


@cache
def modules() -> dict[str, Path]:
    """Every module of the harness by its dotted name below ``compatbench``."""
    found = {}
    for path in HARNESS.rglob("*.py"):
        parts = path.relative_to(HARNESS).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def parse(path: Path) -> tuple[ast.AST, ...]:
    """All that is in a file."""
    return tuple(ast.walk(ast.parse(path.read_bytes())))


def imports_of(path: Path, *, type_checking: bool) -> Iterator[tuple[str, str]]:
    """(module below ``compatbench``, name) of what a file imports, anywhere in it."""
    nodes = parse(path)
    for_types: set[ast.AST] = set()
    for node in nodes:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for_types |= {inner for statement in node.body for inner in ast.walk(statement)}
    for node in nodes:
        if node in for_types and not type_checking:
            continue
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
        for other, _ in imports_of(path, type_checking=True)
        if other and room_of(other) != room_of(module)
        if room_of(other) not in CONTENT and LEVEL[room_of(other)] >= LEVEL[room_of(module)]
    }
    assert above == set()


def test_there_is_no_circle_of_imports() -> None:
    graph = {
        name: {other for other, _ in imports_of(path, type_checking=False) if other in modules()}
        for name, path in modules().items()
        if name
    }
    # A package and what its own __init__ gathers are one.
    for name, others in graph.items():
        others -= {name}
    state: dict[str, str] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert state.get(name) != "open", " → ".join((*path[path.index(name) :], name))
        if name in state:
            return
        state[name] = "open"
        for other in sorted(graph.get(name, ())):
            visit(other, (*path, name))
        state[name] = "done"

    for name in sorted(graph):
        visit(name, ())


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_private_names_stay_in_their_module() -> None:
    for module, path in modules().items():
        found = list(imports_of(path, type_checking=True))
        # ``from compatbench.room import module`` makes ``module._name`` reachable.
        imported = {other.rpartition(".")[2] for other, name in found if not name}
        reached = [
            f"{node.value.id}.{node.attr}"
            for node in parse(path)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if node.value.id in imported and is_private(node.attr)
        ]
        assert [*reached, *(f"{other}.{n}" for other, n in found if is_private(n))] == [], module


def test_imports_are_absolute() -> None:
    for module, path in modules().items():
        nodes = parse(path)
        found = [one.lineno for one in nodes if isinstance(one, ast.ImportFrom) and one.level]
        assert found == [], module


def test_no_file_is_too_long() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def test_the_harness_imports_no_method_by_name() -> None:
    for name, path in modules().items():
        found = [other for other, _ in imports_of(path, type_checking=True)]
        assert not [other for other in found if other.startswith(("methods.", "tasks."))], name


def test_methods_use_what_the_harness_offers_them() -> None:
    allowed = {"method", "backbone", "transfers", "errors"}
    for path in (REPOSITORY / "methods").rglob("*.py"):
        if path.name == "__init__.py":
            continue
        rooms = {room_of(other) for other, _ in imports_of(path, type_checking=True)}
        assert rooms - {"methods"} <= allowed, path


def test_the_page_shows_the_rooms_in_their_order() -> None:
    page = (REPOSITORY / "docs" / "how-it-works.md").read_text()
    table = page.split("| room | what is in it |")[1].split("\n\n")[0]
    shown = [tuple(re.findall(r"`(\w+)`", row.split("|")[1])) for row in table.splitlines()[2:]]
    assert shown == list(reversed(LEVELS[1:]))
