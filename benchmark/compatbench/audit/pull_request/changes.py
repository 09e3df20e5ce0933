"""What a change touches, in the words of the project: methods, results, cards, the harness."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compatbench.audit.pull_request.git import Change
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import methods_folder
from compatbench.method.identity import class_files
from compatbench.method.registry import MethodRegistry
from compatbench.pages.suite_page import RESULTS

KINDS = {
    "benchmark/compatbench/": "harness",
    "tasks/": "cards, data",
    ".github/": "workflows",
    ".ci/": "workflows",
    "docs/": "documentation",
    "tests/": "tests",
}


@dataclass(frozen=True)
class Touched:
    """What a change touches.

    Attributes:
        methods: names whose own files, or those they build on, changed.
        gone: methods whose file was deleted.
        results: (suite, method) pairs of which some file changed or was deleted.
        others: kind -> files of it that changed, for the report.
    """

    methods: tuple[str, ...]
    gone: tuple[str, ...]
    results: frozenset[tuple[str, str]]
    others: dict[str, int]


def sort_change(change: Change, registry: MethodRegistry) -> Touched:
    """Tells what a change touches.

    Raises:
        CompatbenchError: the methods that are installed are not those of this clone.
    """
    folder = change.root / "methods"
    if methods_folder() != folder.resolve():
        raise CompatbenchError(
            f"the installed compatbench reads its methods from {methods_folder()}, not from "
            f"{folder}; install this clone: pip install -e ."
        )
    files = {(change.root / path).resolve() for path in change.changed | change.deleted}
    methods = tuple(name for name in registry.names() if class_files(registry.get(name)) & files)
    gone = tuple(
        sorted(
            Path(path).stem
            for path in change.deleted
            if Path(path).parent == Path("methods") and Path(path).suffix == ".py"
        )
    )
    results = set()
    others: dict[str, int] = {}
    for path in sorted(change.changed | change.deleted):
        parts = Path(path).parts
        if parts[0] == RESULTS and len(parts) == 3:
            name = parts[2].removesuffix(".cost.csv").removesuffix(".csv").removesuffix(".json")
            results.add((parts[1], name))
        elif parts[0] not in ("methods", RESULTS):
            kind = next((kind for start, kind in KINDS.items() if path.startswith(start)), "other")
            others[kind] = others.get(kind, 0) + 1
    return Touched(methods, gone, frozenset(results), others)
