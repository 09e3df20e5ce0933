"""Find the methods whose committed results are outdated; they are renewed after the merge.

A change adds, alters, renames or removes a method in ``methods/``. After the merge, the workflow
``results`` makes its rows, golden output and pages; until then, tests skip these methods. The
workflow gets their names from this program, as variables of a shell:

    METHODS    all that have a file
    TUNED      those to be tuned: they learn, and have no tuning record of this version
    WORDS      those that the transfer 'words', which is ranked beside 'copied', can change
    OTHERS     for each further suite with results that compares some of them: SUITE:METHOD,METHOD
"""

from __future__ import annotations

import json
from pathlib import Path

from compatbench.data.cards import names_elsewhere
from compatbench.engine.request import make_request
from compatbench.method.identity import method_identity
from compatbench.method.registry import builtin_methods, find_transfer
from compatbench.results.tuning_records import read_record, tuning_path
from compatbench.tables.suite_page import suites_with_results

REPOSITORY = Path(__file__).parents[1]
_OUTPUTS = REPOSITORY / "tests" / "golden" / "outputs"


def list_unrecorded() -> set[str]:
    """Return names without a golden output of this version, and outputs without a method."""
    recorded = {}
    for path in _OUTPUTS.glob("method-*.json"):
        version = json.loads(path.read_text(encoding="utf-8"))["version"]
        recorded[path.stem.removeprefix("method-")] = version.partition(",")[0]
    present = {}
    for name, cls in builtin_methods().classes.items():
        if cls.__module__.startswith("compatbench."):
            present[name] = method_identity(cls)
    return {name for name, _ in recorded.items() ^ present.items()}


UNRECORDED = list_unrecorded()


def needs_tuning(name: str) -> bool:
    """Return True if a method learns and the mini suite has no record of this version of it."""
    card = builtin_methods().get(name).card
    record = tuning_path(REPOSITORY, "mini", name)
    return card.learns and not (record.is_file() and read_record(record).version == card.version)


def list_others(methods: list[str]) -> list[str]:
    """Return ``SUITE:METHOD,METHOD`` for the suites but mini that compare some of the methods."""
    others = []
    for suite in suites_with_results(REPOSITORY):
        request = make_request(suite)
        names = [name for name in request.methods if suite.base_method(name) in methods]
        # Suites of weights or images that no clone has cannot be run.
        if suite.name != "mini" and names and not names_elsewhere(suite):
            others.append(f"{suite.name}:{','.join(names)}")
    return others


def show_variables(methods: list[str]) -> str:
    """Return the lines that the workflow reads."""
    words = find_transfer("words")
    variables = {
        "METHODS": methods,
        "TUNED": [name for name in methods if needs_tuning(name)],
        "WORDS": [name for name in methods if words.serves(builtin_methods().get(name).card)],
    }
    lines = [f"{variable}={','.join(names)}" for variable, names in variables.items()]
    lines.append(f"OTHERS={' '.join(list_others(methods))}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(show_variables(sorted(UNRECORDED & builtin_methods().classes.keys())))
