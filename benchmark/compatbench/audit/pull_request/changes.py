"""What a change touches: methods, results, cards, the harness."""

from __future__ import annotations

from collections import Counter
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
        deleted: methods whose file was deleted.
        results: (suite, method) pairs of which some file changed or was deleted.
        others: kind -> number of its files that changed.
    """

    methods: tuple[str, ...]
    deleted: tuple[str, ...]
    results: frozenset[tuple[str, str]]
    others: dict[str, int]


def sort_change(change: Change, registry: MethodRegistry) -> Touched:
    """Sorts the files of a change by what they are.

    Raises:
        CompatbenchError: the methods that are installed are not those of this clone.
    """
    folder = change.root / "methods"
    if methods_folder() != folder.resolve():
        raise CompatbenchError(
            f"the installed compatbench reads its methods from {methods_folder()}, not from "
            f"{folder}; install this clone: pip install -e ."
        )
    paths = [Path(path) for path in sorted(change.changed | change.deleted)]
    files = {(change.root / path).resolve() for path in paths}
    results, others = set(), Counter[str]()
    for path in paths:
        top = path.parts[0]
        if top == RESULTS and len(path.parts) == 3:
            name = path.name.removesuffix(".csv").removesuffix(".cost").removesuffix(".json")
            results.add((path.parts[1], name))
        elif top not in ("methods", RESULTS):
            kinds = (kind for start, kind in KINDS.items() if str(path).startswith(start))
            others[next(kinds, "other")] += 1
    gone = [path for path in map(Path, sorted(change.deleted)) if path.suffix == ".py"]
    return Touched(
        tuple(n for n in registry.names() if class_files(registry.get(n)) & files),
        tuple(path.stem for path in gone if path.parent == Path("methods")),
        frozenset(results),
        dict(others),
    )
