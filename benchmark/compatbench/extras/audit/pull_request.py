"""What is asked of a pull request: the checks of its methods, its results, and a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import compatbench
from compatbench.backbone.device import resolve_device
from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.data.cards.shots import count_shots
from compatbench.engine.confined.remote import ConfinedRegistry
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.audit import audit_results
from compatbench.extras.audit.change import (
    Change,
    compare_with_base,
    describe_rows,
    find_change,
    find_problems,
    read_base_results,
)
from compatbench.extras.audit.findings import summarise
from compatbench.extras.audit.sample import SampleSize
from compatbench.extras.audit.tolerance import deciding
from compatbench.extras.check.plugin_files import PluginFiles
from compatbench.extras.check.run_checks import run_checks
from compatbench.files.project_folders import content_folder, in_clone
from compatbench.results.result_files import RESULTS, result_folders
from compatbench.tables.markdown import code, escape, link_definitions, render_table
from compatbench.tables.ranking import ranking_table
from compatbench.tables.suite_page import read_suite_page

# What a measurement rests on, besides methods and what keys name.
HARNESS = ("benchmark/compatbench/", "tasks/mini/", "tasks/__init__.py", "setup.cfg", "pyproject")
SHOWN = 20  # findings in the summary
# The floor, the strongest plain method, and the method of the founding paper.
REFERENCES = ("zeroshot", "kgcoop", "contcoop")


@dataclass
class PullRequest:
    """What was found of a change."""

    problems: list[str] = field(default_factory=list)  # each keeps it from being merged
    lines: list[str] = field(default_factory=list)  # the summary without its verdict, as Markdown
    # By suite, the rows that are reported only.
    unchecked: dict[str, int] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The whole summary, the verdict first."""
        count = len(self.problems)
        verdict = f"**Failed**: {count} problem{'s' * (count != 1)}." if count else "**Passed.**"
        if self.unchecked and not count:
            verdict = "**No problem in what could be checked.**"
        lines = ["# compatbench ci", "", verdict, ""]
        for suite, rows in self.unchecked.items():
            lines += [f"**Not verified**: {rows:,} rows of {code(suite)} were not checked.", ""]
        lines += [f"- {escape(problem, longest=600)}" for problem in self.problems[:SHOWN]]
        if count > SHOWN:
            lines.append(f"- and {count - SHOWN} more")
        return "\n".join([*lines, *self.lines]) + "\n"


@dataclass(frozen=True)
class Touched:
    """What a change touches: methods, or what they build on; deleted ones; results; harness."""

    methods: list[str]
    deleted: list[str]
    results: dict[str, set[str]]  # by suite
    harness: bool  # code that all methods are measured with


def check_pull_request(
    out: Path | str = ".",
    base: str | None = None,
    *,
    cells: int | None = None,
    forged: float = SampleSize.forged,
    power: float = SampleSize.power,
    minutes: float | None = 10,
    seed: int | None = None,
    zero_shot: bool = True,
    unverified: Collection[str] = (),
    device: str = "auto",
    progress: Callable[[str], object] = lambda _: None,
) -> PullRequest:
    """Does all that is asked of a pull request.

    The changed methods are checked; all results are audited; every changed row is compared with
    the base's. Of a new method every cell is run again, in suites whose weights and images ship
    with the project; of the others that changed, a sample; and, where the harness changed, a cell
    of every method. Images are encoded again for that. It is the installed harness that does so,
    best that of the base: of the clone only methods are run, each in a process of its own, and
    cards, results and published figures are read. Neither a network nor a token is needed.

    Args:
        out: a folder of the clone.
        base: a branch, tag or commit to compare with; by default what ``GITHUB_BASE_REF`` names
            on the remote ``origin``, then ``origin/main``, then ``main``.
        cells: how many cells of the changed methods to run again, in place of all this.
        forged: the share of cells, if that many were forged, ...
        power: ... of which one is to be found with this probability.
        minutes: after which no other cell is begun; None is no end.
        seed: of the draw of these; by default a new one.
        zero_shot: whether zero-shot counts are computed again, if a method has changed.
        unverified: suites whose rows may stand though the weights or images are not here.
        device: where to compute.
        progress: called with a line before each step.

    Returns:
        ``problems``, each of which keeps the change from being merged, and ``summary``, a page
        in Markdown.

    Raises:
        CompatbenchError: the clone, its base or the installation cannot be used.
    """
    device = resolve_device(device)  # a wrong one is refused before minutes of work
    change = find_change(Path(out), base)
    options = {
        "cells": cells,
        "forged": forged,
        "power": power,
        "minutes": minutes,
        "seed": seed,
        "unverified": unverified,
        "device": device,
        "progress": progress,
    }
    with in_clone(change.root):
        return _check(change, zero_shot, progress, options)


def _check(
    change: Change, zero_shot: bool, progress: Callable[[str], object], options: Mapping[str, Any]
) -> PullRequest:
    """``check_pull_request``, with the methods and cards of the change in force."""
    registry = ConfinedRegistry()
    cards = [suite_cards.read(name) for name in suite_cards.names()]
    for path in (path for card in cards for path in card.plugins):
        registry.add_file(path)
    touched = sort_change(change, registry)
    found = PullRequest([*_check_files(change)], _describe_change(change, touched))
    _check_methods(found, touched, registry, progress)
    results = change.root / RESULTS
    if not result_folders(change.root):
        if touched.results:
            found.problems.append("all results were removed")
        return found
    changed = {name for names in touched.results.values() for name in names}
    for card in cards:
        names = {path.stem for path in (results / card.name).glob("*.csv")}
        changed |= {name for name in names if card.base_method(name) in touched.methods}
    audit = audit_results(
        change.root,
        only=changed,
        new=changed - change.list_base_results(),
        each=touched.harness,
        cold=True,
        zero_shot=zero_shot and bool(changed or touched.harness),
        **options,
    )
    findings, found.unchecked = summarise(audit.findings), audit.unchecked
    found.problems += [line.replace(f"{change.root}/", "") for line in findings]
    looked_at = f"{audit.rows:,} rows of {audit.methods} method files were looked at."
    found.lines += ["", "## Audit", "", looked_at]
    if audit.draws:
        drawn = [f"- {escape(str(draw))}" for draw in audit.draws]
        found.lines += ["", f"Drawn with seed {audit.seed}:", "", *drawn, ""]
        names = Counter(one.cell.label for one in audit.sample)
        found.lines.append(", ".join(f"{code(name)} {n}" for name, n in sorted(names.items())))
    if audit.notes:
        found.lines += ["", *(f"- {escape(note)}" for note in audit.notes)]
    for suite in audit.suites:
        here = any((results / suite / f"{name}.csv").is_file() for name in changed)
        if suite in touched.results or here:
            _compare(found, change, suite_cards.read(suite), touched, changed)
    for suite in sorted(touched.results.keys() - audit.suites):
        if not (results / suite).exists():
            found.problems.append(f"all results of suite '{suite}' were removed")
    return found


def _check_files(change: Change) -> Iterator[str]:
    """What a change may not bring along: its own weights or splits, links, compiled methods."""
    for name in sorted(change.changed | change.deleted):
        path = change.root / name
        top, suffix = Path(name).parts[0], path.suffix
        if top in ("methods", "tasks") and path.is_symlink():
            yield f"{name}: is a link; put what it leads to in its place"
        elif top == "methods" and suffix != ".py":
            yield f"{name}: methods are Python files, and nothing else belongs there"
        elif top == "tasks" and suffix not in (".yaml", ".py", ".md"):
            what = "ships with the project, and a change cannot be judged by its own files"
            yield f"{name}: {what}; the project's owner has to add it"


def sort_change(change: Change, registry: ConfinedRegistry) -> Touched:
    """What the files of a change touch."""
    paths = [Path(path) for path in sorted(change.changed | change.deleted)]
    files = {(change.root / path).resolve() for path in paths}
    results: dict[str, set[str]] = {}
    for path in paths:
        if path.parts[0] == RESULTS and len(path.parts) == 3:
            name = path.name.removesuffix(".csv").removesuffix(".cost").removesuffix(".json")
            results.setdefault(path.parts[1], set()).update([name] if path.suffix != ".md" else [])
    classes: Any = registry.classes
    methods = [name for name in registry.names() if classes[name].files & files]
    gone = [path for path in map(Path, sorted(change.deleted)) if path.suffix == ".py"]
    deleted = [path.stem for path in gone if path.parts[:-1] == ("methods",)]
    harness = any(path.as_posix().startswith(HARNESS) for path in paths)
    return Touched(methods, deleted, results, harness)


def _describe_change(change: Change, touched: Touched) -> list[str]:
    named = {"methods": touched.methods, "methods deleted": touched.deleted}
    named |= {
        f"results of {code(suite)}": sorted(touched.results[suite]) for suite in touched.results
    }
    lines = [f"- {what}: {', '.join(map(code, names))}" for what, names in named.items() if names]
    folders = Counter(path.partition("/")[0] for path in sorted(change.changed | change.deleted))
    lines += [f"- {code(name)}: {n} files" for name, n in folders.items() if name != RESULTS]
    against = f"Against {code(change.name)} at {code(change.base[:12])}:"
    if Path(compatbench.__path__[0]).resolve().is_relative_to(change.root.resolve()):
        judge = "This clone judges itself; a pull request is judged by the code of its base."
    else:
        judge = "Judged by the code that is installed; that of the change was not run"
        judge += ", and it changes the harness." if touched.harness else ", but for its methods."
    return ["", "## What changed", "", against, "", *(lines or ["- nothing"]), "", judge]


def _check_methods(
    found: PullRequest,
    touched: Touched,
    registry: ConfinedRegistry,
    progress: Callable[[str], object],
) -> None:
    for name, why in registry.broken.items():
        found.problems.append(f"method '{name}' cannot be loaded: {why}")
    if touched.methods:
        found.lines += ["", "## Checks", ""]
    for name in touched.methods:
        progress(f"checks {name}")
        plugin = registry.identify(name)[1]
        files = PluginFiles((Path(plugin),) if plugin else (), folder=content_folder("methods"))
        outcomes = run_checks("method", [name], files=files)
        counts = Counter(one.status for one in outcomes)
        found.lines.append(f"- {code(name)}: {counts['pass']} passed, {counts['fail']} failed")
        for one in outcomes:
            if one.status == "fail":
                found.problems.append(f"check '{one.check}' of method '{name}' fails: {one.reason}")


def _compare(
    found: PullRequest, change: Change, card: SuiteCard, touched: Touched, changed: set[str]
) -> None:
    """Adds a suite's changed methods beside the base, and what was removed of them."""
    folder = f"{RESULTS}/{card.name}"
    try:
        base, page = read_base_results(change, card.name), read_suite_page(card, change.root)
    except CompatbenchError as error:
        # What is broken now is among the audit's findings; the base's own is not.
        if not found.problems:
            found.problems.append(str(error))
        return
    claims = [
        {one.info.name: deciding(one.provenance) for one in results.all}
        for results in (base, page.results)
    ]
    old, now = map(set, claims)
    compared = compare_with_base(base, page.results)
    found.lines += ["", f"## {escape(card.title)} ({code(card.name)})", ""]
    for name in sorted(changed & (now | old) - set(touched.deleted)):
        rows = compared.loc[compared["method"] == name]
        moved = describe_rows(rows) if name in old else f"new, {len(rows)} rows"
        found.lines.append(f"- {code(name)}: {moved}")
        if name in now:
            problems = find_problems(rows, page.expected, claims[0].get(name) == claims[1][name])
            found.problems += [f"{folder}/{name}.csv: {problem}" for problem in problems]
    for name in sorted(old - now):
        if name in touched.deleted:
            found.lines.append(f"- {code(name)}: removed with its method")
        else:
            found.problems.append(f"{folder}/{name}.csv was removed; the method is still here")
    shown, shots = {*(changed & now - set(touched.deleted)), *REFERENCES}, max(page.expected.shots)
    sides = {"": page, f" at {code(change.name)}": read_suite_page(card, change.root, base)}
    for (side, one), upgrade in product(sides.items(), page.expected.upgrades):
        rows = one.restrict(methods=shown).ranks(upgrade, shots)
        title = f"{' → '.join(map(code, upgrade))}, {count_shots(shots)}{side}:"
        found.lines += ["", title, "", render_table(ranking_table(rows)), ""]
        found.lines += link_definitions(row.standing.info.paper for row in rows)
