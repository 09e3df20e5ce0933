"""Which methods a change touches, their checks, their results, and a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from compatbench.audit.audit import Audit, audit_results
from compatbench.audit.findings import summarise
from compatbench.audit.pull_request.base_results import compare_with_base, read_base_results
from compatbench.audit.pull_request.changes import Touched, sort_change
from compatbench.audit.pull_request.comparison_table import comparison_tables
from compatbench.audit.pull_request.git import Change, find_change
from compatbench.audit.tolerance import EPSILON
from compatbench.conformance import run_checks
from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.engine.execute.device import resolve_device
from compatbench.errors import CompatbenchError
from compatbench.method.registry import MethodRegistry, builtin_methods
from compatbench.pages.markdown import code, escape
from compatbench.pages.suite_page import RESULTS, read_suite_page
from compatbench.results.measures import Expected
from compatbench.results.store import read_methods
from compatbench.transfer import COPIED, TRANSFERS

SHOWN = 20  # findings in the summary


@dataclass
class PullRequest:
    """What was found of a change.

    Attributes:
        problems: each keeps the change from being merged.
        lines: the summary without its verdict, as Markdown.
    """

    problems: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """The whole summary, the verdict first."""
        count = len(self.problems)
        verdict = f"**Failed**: {count} problem{'s' * (count != 1)}." if count else "**Passed.**"
        lines = ["# compatbench ci", "", verdict, ""]
        lines += [f"- {escape(problem, longest=600)}" for problem in self.problems[:SHOWN]]
        if count > SHOWN:
            lines.append(f"- and {count - SHOWN} more")
        return "\n".join([*lines, *self.lines]) + "\n"


def check_pull_request(
    out: Path | str = ".",
    base: str | None = None,
    *,
    cells: int = 3,
    seed: int | None = None,
    zero_shot: bool = True,
    registry: MethodRegistry | None = None,
    cache: Path | None = None,
    device: str = "auto",
    progress: Callable[[str], object] = lambda _: None,
) -> PullRequest:
    """Does all that is asked of a pull request.

    The changed methods are checked; all results are audited, and some cells of the changed
    methods are run again; every changed row is compared with the base's. The methods' code of
    the clone is run; neither a network nor a token is needed.

    Args:
        out: a folder of the clone, whose compatbench must be the one that is installed.
        base: a branch, tag or commit to compare with; by default what ``GITHUB_BASE_REF`` names
            on the remote ``origin``, then ``origin/main``, then ``main``.
        cells: how many cells of the changed methods to run again.
        seed: of the draw of these; by default a new one.
        zero_shot: whether zero-shot counts are computed again, if a method has changed.
        registry: where methods are looked up; by default the built-in and installed ones.
        cache: folder of the feature cache; by default that of ``run``.
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
    registry = registry or builtin_methods()
    for name in suite_cards.names():
        for path in suite_cards.read(name).plugins:
            registry.add_file(path)
    touched = sort_change(change, registry)
    found = PullRequest()
    found.lines += _describe_change(change, touched)
    _check_methods(found, touched, registry, progress)
    results = change.root / RESULTS
    if not results.is_dir() or not any(path.is_dir() for path in results.iterdir()):
        if touched.results:
            found.problems.append("all results were removed")
        return found
    changed = frozenset(name for _, name in touched.results) | {
        path.stem
        for card in map(suite_cards.read, suite_cards.names())
        for path in (results / card.name).glob("*.csv")
        if card.base_method(path.stem) in touched.methods
    }
    audit = audit_results(
        change.root,
        cells=cells,
        seed=seed,
        only=changed,
        zero_shot=zero_shot and bool(changed),
        registry=registry,
        cache=cache,
        device=device,
        progress=progress,
    )
    root = f"{change.root}/"
    found.problems += [line.replace(root, "") for line in summarise(audit.findings)]
    found.lines += _describe_audit(audit)
    names = {suite for suite, _ in touched.results}
    for suite in audit.suites:
        methods = [name for name in changed if (results / suite / f"{name}.csv").is_file()]
        if suite in names or methods:
            _compare(found, change, suite_cards.read(suite), touched, changed)
    for suite in sorted(names.difference(audit.suites)):
        if not (results / suite).exists():
            found.problems.append(f"all results of suite '{suite}' were removed")
    return found


def _describe_change(change: Change, touched: Touched) -> list[str]:
    suites: dict[str, list[str]] = {}
    for suite, name in sorted(touched.results):
        suites.setdefault(f"results of {code(suite)}", []).append(name)
    named = {"methods": touched.methods, "methods deleted": touched.deleted, **suites}
    lines = [
        f"- {what}: {', '.join(code(name) for name in names)}"
        for what, names in named.items()
        if names
    ]
    lines += [f"- {kind}: {count} files" for kind, count in touched.others.items()]
    against = f"Against {code(change.name)} at {code(change.base[:12])}:"
    return ["", "## What changed", "", against, "", *(lines or ["- nothing"])]


def _check_methods(
    found: PullRequest,
    touched: Touched,
    registry: MethodRegistry,
    progress: Callable[[str], object],
) -> None:
    for name, why in registry.broken.items():
        found.problems.append(f"method '{name}' cannot be loaded: {why}")
    if touched.methods:
        found.lines += ["", "## Checks", ""]
    for name in touched.methods:
        progress(f"checks {name}")
        outcomes = list(run_checks(registry.get(name)))
        failed = [one for one in outcomes if one.status == "fail"]
        passed = sum(one.status == "pass" for one in outcomes)
        found.lines.append(f"- {code(name)}: {passed} passed, {len(failed)} failed")
        for one in failed:
            found.problems.append(f"check '{one.check}' of method '{name}' fails: {one.reason}")


def _describe_audit(audit: Audit) -> list[str]:
    lines = ["", "## Audit", ""]
    lines.append(f"{audit.rows:,} rows of {audit.methods} method files were looked at.")
    if audit.sample:
        lines += ["", f"Run again, drawn from the changed methods with seed {audit.seed}:", ""]
        lines += [f"- {code(one.suite)}: {escape(str(one))}" for one in audit.sample]
    if audit.notes:
        lines += ["", *(f"- {escape(note)}" for note in audit.notes)]
    return lines


def _compare(
    found: PullRequest,
    change: Change,
    card: SuiteCard,
    touched: Touched,
    changed: frozenset[str],
) -> None:
    """Adds a suite's changed methods beside the base, and what was removed of them."""
    try:
        now = read_methods(change.root / RESULTS / card.name)
        base = read_base_results(change, card.name)
        expected = read_suite_page(card, change.root).expected
    except CompatbenchError as error:
        # What is broken now is among the audit's findings; the base's own is not.
        if not found.problems:
            found.problems.append(str(error))
        return
    names = sorted(changed.intersection([*now, *base]).difference(touched.deleted))
    lines = ["", f"## {escape(card.title)} ({code(card.name)})", ""]
    for name in names:
        rows = compare_with_base(base.get(name), now.get(name))
        lines.append(f"- {code(name)}: {_describe_rows(rows, name in base)}")
        if name in now:
            found.problems += _find_problems(f"results/{card.name}/{name}.csv", rows, expected)
    for name in sorted(set(base) - set(now)):
        if name in touched.deleted:
            lines.append(f"- {code(name)}: removed with its method")
        else:
            found.problems.append(
                f"results/{card.name}/{name}.csv was removed; the method is still here"
            )
    lines += comparison_tables(expected, now, base, [name for name in names if name in now])
    found.lines += lines


def _describe_rows(rows: pd.DataFrame, known: bool) -> str:
    counts = Counter(rows["change"])
    if not known:
        return f"new, {len(rows)} rows"
    words = {
        "within": f"within {EPSILON:.0%} of the images",
        "beyond": "moved by more",
        "added": "added",
        "removed": "removed",
    }
    parts = [f"{counts['equal']} rows as before"]
    parts += [f"{counts[kind]} {word}" for kind, word in words.items() if kind in counts]
    moved = rows.query("change in ['within', 'beyond']").to_dict("records")
    if moved:
        largest = max(moved, key=lambda row: abs(row["images"]))
        parts.append(f"the most by {largest['images']:+} images, {escape(_place(largest))}")
    return ", ".join(parts)


def _find_problems(file: str, rows: pd.DataFrame, expected: Expected) -> list[str]:
    """Rows of the base that are gone, though the suite asks for them, and rewritten counts."""
    problems = []
    removed = rows.query("change == 'removed'").to_dict("records")
    if asked := [row for row in removed if _asks_for(expected, row)]:
        first = f"the first of {_place(asked[0])}"
        problems.append(f"{file}: {len(asked)} rows of the base were removed, {first}")
    forged = rows.query("change == 'beyond' and same_key").head(SHOWN)
    for row in forged.to_dict("records"):
        counts = f"from {row['correct_base']} to {row['correct']}"
        problems.append(
            f"{file}: {_place(row)}: 'correct' went {counts} under one key, which means the same "
            "module"
        )
    return problems


def _asks_for(expected: Expected, row: Mapping[str, Any]) -> bool:
    """Whether the suite, as it is now, has a measurement."""
    task, source, backbone = row["task"], row["source"], row["backbone"]
    return (
        row["transfer"] in TRANSFERS
        and task in expected.tasks
        and row["test_set"] in (task, *expected.variants.get(task, ()))
        and row["shots"] in expected.shots
        and row["seed"] in expected.seeds
        and source in {name for pair in expected.upgrades for name in pair}
        and (backbone == source or (source, backbone) in expected.upgrades)
    )


def _place(row: Mapping[str, Any]) -> str:
    transfer = "" if row["transfer"] == COPIED else f", by transfer '{row['transfer']}'"
    return (
        f"{row['task']} from {row['source']}, {row['shots']} shots, seed {row['seed']}, at "
        f"{row['backbone']} on {row['test_set']}{transfer}"
    )
