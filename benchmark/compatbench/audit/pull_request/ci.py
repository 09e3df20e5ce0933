"""``compatbench ci``: which methods changed, their checks, their results, and a verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from compatbench.audit import Audit, Options, audit_results, summarise
from compatbench.audit.pull_request.base import Moved, compare_with_base, read_base_results
from compatbench.audit.pull_request.changes import Touched, sort_change
from compatbench.audit.pull_request.git import Change
from compatbench.audit.pull_request.table import comparison_tables
from compatbench.audit.suites import find_suites
from compatbench.audit.tolerance import EPSILON, Tolerance
from compatbench.data.cards import SuiteCard
from compatbench.data.cards.suite import COPIED
from compatbench.errors import CompatbenchError
from compatbench.method.registry import MethodRegistry
from compatbench.pages.markdown import code, escape
from compatbench.pages.suite_page import RESULTS, read_suite_page
from compatbench.results.measures import Expected
from compatbench.results.rows import Order
from compatbench.results.store import read_methods

SHOWN = 20  # findings in the summary
Say = Callable[[str], object]


@dataclass
class Ci:
    """What was found of a change.

    Attributes:
        problems: each keeps the change from being merged.
        lines: the summary, as Markdown.
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


def check_change(
    change: Change, registry: MethodRegistry, options: Options, say: Say = lambda _: None
) -> Ci:
    """Does all that is asked of a pull request.

    Args:
        options: how the audit is to be done; cells are drawn from changed methods alone.
        say: is told what is done, a line at a time.

    Raises:
        CompatbenchError: the clone, its base or the installation cannot be used.
    """
    touched = sort_change(change, registry)
    ci = Ci()
    ci.lines += _describe(change, touched)
    _check_methods(ci, touched, registry, say)
    results = change.root / RESULTS
    if results.is_dir() and any(path.is_dir() for path in results.iterdir()):
        _check_results(ci, change, touched, registry, options, say)
    elif touched.results:
        ci.problems.append("all results were removed")
    return ci


def _describe(change: Change, touched: Touched) -> list[str]:
    lines = ["", "## What changed", "", f"Against {code(change.name)} at {code(change.base[:12])}:"]
    suites: dict[str, list[str]] = {}
    for suite, name in sorted(touched.results):
        suites.setdefault(suite, []).append(name)
    for what, names in (("methods", touched.methods), ("methods deleted", touched.gone)):
        if names:
            lines.append(f"- {what}: {', '.join(code(name) for name in names)}")
    for suite, names in suites.items():
        lines.append(f"- results of {code(suite)}: {', '.join(code(name) for name in names)}")
    lines += [f"- {kind}: {count} files" for kind, count in touched.others.items()]
    if len(lines) == 4:
        lines.append("- nothing")
    return [*lines[:4], "", *lines[4:]]


def _check_methods(ci: Ci, touched: Touched, registry: MethodRegistry, say: Say) -> None:
    from compatbench.conformance import run_checks

    for name, why in registry.broken.items():
        ci.problems.append(f"method '{name}' cannot be loaded: {why}")
    if not touched.methods:
        return
    ci.lines += ["", "## Checks", ""]
    for name in touched.methods:
        say(f"checks {name}")
        outcomes = list(run_checks(registry.get(name)))
        failed = [outcome for outcome in outcomes if outcome.status == "fail"]
        passed = sum(outcome.status == "pass" for outcome in outcomes)
        ci.lines.append(f"- {code(name)}: {passed} passed, {len(failed)} failed")
        for one in failed:
            ci.problems.append(f"check '{one.check}' of method '{name}' fails: {one.reason}")


def _check_results(
    ci: Ci,
    change: Change,
    touched: Touched,
    registry: MethodRegistry,
    options: Options,
    say: Say,
) -> None:
    results = change.root / RESULTS
    suites, unknown = find_suites(results)
    changed = frozenset(name for _, name in touched.results) | {
        path.stem
        for card in suites
        for path in (results / card.name).glob("*.csv")
        if card.base_method(path.stem) in touched.methods
    }
    options = replace(options, only=changed, zero_shot=options.zero_shot and bool(changed))
    audit = audit_results(results, suites, registry, options, say)
    audit.findings[:0] = unknown
    root = f"{change.root}/"
    ci.problems += [line.replace(root, "") for line in summarise(audit.findings)]
    ci.lines += _describe_audit(audit, options)
    names = {suite for suite, _ in touched.results}
    for card in suites:
        if card.name in names or _holds(results / card.name, changed):
            _compare(ci, change, card, touched, changed)
    removed = {suite for suite, _ in touched.results} - {card.name for card in suites}
    for suite in sorted(removed):
        if not (results / suite).exists():
            ci.problems.append(f"all results of suite '{suite}' were removed")


def _holds(folder: Path, methods: frozenset[str]) -> bool:
    return any((folder / f"{name}.csv").is_file() for name in methods)


def _describe_audit(audit: Audit, options: Options) -> list[str]:
    lines = ["", "## Audit", ""]
    lines.append(f"{audit.rows:,} rows of {audit.methods} method files were looked at.")
    if audit.sampled:
        lines += ["", f"Run again, drawn from the changed methods with seed {options.seed}:", ""]
        lines += [f"- {code(suite)}: {escape(str(one))}" for suite, one in audit.sampled]
    return [*lines, *(["", *(f"- {escape(note)}" for note in audit.notes)] if audit.notes else [])]


def _compare(
    ci: Ci, change: Change, card: SuiteCard, touched: Touched, changed: frozenset[str]
) -> None:
    folder = change.root / RESULTS / card.name
    try:
        now = read_methods(folder)
        base = read_base_results(change, card.name)
        expected = read_suite_page(card, change.root).expected
    except CompatbenchError as error:
        # What is broken now is among the audit's findings; the base's own is not.
        if not ci.problems:
            ci.problems.append(str(error))
        return
    tolerance = Tolerance(EPSILON, "")
    names = sorted(
        name for name in changed if (name in now or name in base) and name not in touched.gone
    )
    lines = ["", f"## {escape(card.title)} ({code(card.name)})", ""]
    for name in names:
        moved = compare_with_base(base.get(name), now.get(name), tolerance)
        lines.append(f"- {code(name)}: {_describe_moved(moved, name in base)}")
        asked = [place for place in moved.removed if _asks_for(expected, place)]
        ci.problems += _problems(card.name, name, moved, asked, name in now)
    for name in sorted(set(base) - set(now) - set(names)):
        if name in touched.gone:
            lines.append(f"- {code(name)}: removed with its method")
        else:
            ci.problems.append(
                f"results/{card.name}/{name}.csv was removed; the method is still here"
            )
    lines += comparison_tables(expected, now, base, [name for name in names if name in now])
    ci.lines += lines


def _describe_moved(moved: Moved, known: bool) -> str:
    if not known:
        return f"new, {len(moved.added)} rows"
    parts = [f"{moved.equal} rows as before"]
    if moved.within:
        parts.append(f"{moved.within} within {EPSILON:.0%} of the images")
    if moved.beyond:
        parts.append(f"{moved.beyond} moved by more")
    if moved.added:
        parts.append(f"{len(moved.added)} added")
    if moved.removed:
        parts.append(f"{len(moved.removed)} removed")
    if moved.largest:
        images, place = moved.largest
        parts.append(f"the most by {images:+} images, {escape(_words(place))}")
    return ", ".join(parts)


def _asks_for(expected: Expected, place: Order) -> bool:
    """Whether the suite, as it is now, has a measurement."""
    _, task, source, shots, seed, backbone, test_set = place
    return (
        task in expected.tasks
        and test_set in (task, *expected.variants.get(task, ()))
        and shots in expected.shots
        and seed in expected.seeds
        and source in {name for pair in expected.upgrades for name in pair}
        and (backbone == source or (source, backbone) in expected.upgrades)
    )


def _problems(
    suite: str, name: str, moved: Moved, asked: list[Order], still_here: bool
) -> list[str]:
    """What of a method's rows stands against a change.

    Args:
        asked: rows of the base that are gone, though the suite still asks for them.
    """
    file = f"results/{suite}/{name}.csv"
    if moved.removed and not still_here:
        return [f"{file} was removed; the method is still here"]
    problems = []
    if asked:
        problems.append(
            f"{file}: {len(asked)} rows of the base were removed, the first of {_words(asked[0])}"
        )
    for place, old, new in moved.forged[:SHOWN]:
        problems.append(
            f"{file}: {_words(place)}: 'correct' went from {old} to {new} under one key, which "
            "means the same module"
        )
    return problems


def _words(place: Order) -> str:
    transfer, task, source, shots, seed, backbone, test_set = place
    how = "" if transfer == COPIED else f" ({transfer})"
    return f"{task} from {source}{how}, {shots} shots, seed {seed}, at {backbone} on {test_set}"
