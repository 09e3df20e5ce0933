"""The paper's claims (arXiv:2412.20895), each compared with a suite's results.

Definitions that the claims leave open, fixed before any result was looked at:

* A method *does well* if it gains on the source over the source's zero-shot; its module
  *fails* if it loses on the target against the target's. *Many* is a third or more.
* *Shallow* and *deep* are those of the method's card. Both methods and datasets are samples.
* The baselines of a reported gain are the prompt methods that the paper names.
* An interval of 95 % decides. Where kinds of methods are compared, the verdict must not depend
  on a single method. Methods without a complete set of cells have no mean and are left out;
  modules that cannot be attached have no accuracy, and are counted.
* Methods of this project came after the paper, which claims nothing about them; they are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Literal

import numpy as np
import pandas as pd

from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.errors import CompatbenchError
from compatbench.extras.studies import frames
from compatbench.extras.studies.frames import Row, StudyReport, crossed_interval
from compatbench.messages import count
from compatbench.results.estimate import Array, Interval, estimate, interval_columns, mean
from compatbench.results.expected import Upgrade
from compatbench.results.result_files import RESULTS, ResultFiles
from compatbench.results.standing import MeasureName, Standing, compute_standing
from compatbench.tables.numbers import with_interval
from compatbench.tables.suite_page import SuitePage, read_suite_page
from compatbench.tables.table import Table, plain_table, records, sentence, text

Verdict = Literal["supported", "contradicted", "not decided"]

OWN = "compatbench"  # in place of the paper, on the card of a method of this project
MANY = math.nextafter(1 / 3, 0)  # a third is many
CONTCOOP = "contcoop"
BASELINES = ("coop", "cocoop", "kgcoop")
NAMED = (CONTCOOP, *BASELINES)
# What is reported of ContCoOp, averages in points.
REPORTED: dict[MeasureName, tuple[float, str]] = {
    "target": (3.57, "target accuracy"),
    "h": (2.68, "H"),
}


@dataclass(frozen=True)
class ClaimsReport(StudyReport):
    """The claims, compared with the results of one upgrade of a suite.

    Attributes:
        over: the tasks and seeds that effects are means over, unless a finding says otherwise.
        complete, methods: how many methods are complete, and how many have results.
        findings: one row for each thing that a claim says: number of the ``claim``; what it
            ``says``, as a sentence that can be wrong; the ``data`` it was computed from; the
            ``effect`` with its interval and ``unit``, if the results give one; the ``verdict`` by
            the interval; ``why``: what is missing, or what limits the verdict.
    """

    suite: str
    upgrade: Upgrade
    shots: int
    over: str
    complete: int
    methods: int
    findings: pd.DataFrame

    def tables(self) -> list[Table]:
        """One row for each finding; what limits several verdicts is said once, below."""
        rows, marks = [], dict[str, str]()
        for row in records(self.findings):
            limits = filter(None, (row["why"] or "").split("; "))
            of_row = [marks.setdefault(limit, ascii_lowercase[len(marks)]) for limit in limits]
            says = ": ".join(filter(None, (row["says"], row["data"])))
            says += f" [{', '.join(of_row)}]" if of_row else ""
            rows.append([str(row["claim"]), says, show_effect(row), text(row["verdict"]).bold()])
        header = ["Claim", "What it says, and of what", "Effect, 95 % interval", "Verdict"]
        head = (
            f"Suite {self.suite}, {' → '.join(self.upgrade)}, {self.shots} shots, {self.over}, "
            f"{self.complete} methods with all of their cells; effects in points:"
        )
        notes = [f"[{mark}] {limit}" for limit, mark in marks.items()]
        return [plain_table(header, rows, range(4), sentence(head), notes)]


def show_effect(finding: Row) -> str:
    """``+1.2 (-0.3 to +2.5)``; shares in percent."""
    show, unit = "{:+.1f}".format, ""
    if finding["unit"].startswith("of "):
        show, unit = (lambda value: f"{100 * value:.0f}"), " %"
    value, space, interval = with_interval(finding, "effect", show).partition(" ")
    return value if finding["effect"] is None else f"{value}{unit}{space}{interval}"


def analyze_claims(suite: str | SuiteCard = "mini", out: str | Path = ".") -> list[ClaimsReport]:
    """Compares the founding paper's claims with results: supported, contradicted or undecided.

    The paper is arXiv:2412.20895. Each claim is shown with its data, the size of the effect, and a
    95 % interval over datasets, which decides the verdict if there are six or more. A missing cell
    gives no mean.

    Args:
        suite: as for ``run``.
        out: the folder of ``results/``, of which the largest number of shots is looked at.

    Returns:
        One report for each upgrade: ``findings`` has each claim's effect, interval and verdict.

    Raises:
        CompatbenchError: an unknown suite, no results of it, or a broken results file.
    """
    page = read_suite_page(suite_cards.read(suite), ResultFiles(Path(out)))
    if not page.results.methods:
        raise CompatbenchError(
            f"{Path(out) / RESULTS / page.card.name} holds no results; start with "
            f"'compatbench run --suite {page.card.name}'"
        )
    shots = max(page.expected.shots)
    return [check_claims(page, upgrade, shots) for upgrade in page.expected.upgrades]


def check_claims(page: SuitePage, upgrade: Upgrade, shots: int) -> ClaimsReport:
    """Every claim that results can test, for one upgrade."""
    evidence = Evidence(page, upgrade, shots)
    claims = many_fail, depth_decides, contcoop_is_best, gains_as_reported, holds_elsewhere
    findings = [
        {"claim": number, **finding}
        for number, claim in enumerate(claims, start=1)
        for finding in claim(evidence)
    ]
    counts = evidence.tasks, evidence.complete, len(evidence.ranked)
    return ClaimsReport(page.card.name, upgrade, shots, *counts, pd.DataFrame(findings))


class Evidence:
    """The results of one upgrade, without methods of this project.

    Attributes:
        methods: those that learn and are complete, by name, without configs of them.
        readings: ContCoOp and its configs, by name: as the suite reads the paper.
    """

    def __init__(self, page: SuitePage, upgrade: Upgrade, shots: int) -> None:
        self.page, self.upgrade, self.shots = page, upgrade, shots
        standings = page.by_name(upgrade, shots).values()
        self.ranked = [standing for standing in standings if standing.info.paper != OWN]
        complete = [standing for standing in self.ranked if standing.is_measured]
        learning = {each.info.name: each for each in complete if each.info.depth != "none"}
        self.complete = len(complete)
        self.methods = {name: each for name, each in learning.items() if name not in page.configs}
        self.readings = {
            name: each
            for name, each in learning.items()
            if page.configs.get(name, name) == CONTCOOP
        }
        self.seeds = count(len(page.expected.seeds), "seed")
        self.tasks = f"{count(len(page.expected.tasks), 'task')}, {self.seeds}"
        refused = [each.info.depth for each in self.ranked if each.state == "not transferable"]
        kinds = f"{refused.count('shallow')} shallow, {refused.count('deep')} deep"
        what = f"{count(len(refused), 'method')} whose modules cannot be attached ({kinds})"
        self.not_counted = f"not counted: {what}" if refused else ""

    def of_depth(self, depth: str) -> list[str]:
        return [name for name, standing in self.methods.items() if standing.info.depth == depth]

    def scores(self, names: Sequence[str], measure: MeasureName) -> Array:
        """Means over seeds, ``[methods, tasks]``."""
        known = self.methods | self.readings
        return np.array([frames.task_means(known[name], measure) for name in names])

    def missing(self, says: str, names: Sequence[str]) -> Row:
        """The finding that nothing can be said without these methods."""
        has = "has" if len(names) == 1 else "have"
        why = f"{', '.join(names)} {has} no complete results, so there is no mean"
        return _finding(says, "", why=why)


def _finding(
    says: str,
    data: str,
    effect: Interval | None = None,
    verdict: Verdict | None = None,
    why: str = "",
    unit: str = "points",
) -> Row:
    """A row of the report; the verdict is that on an effect above 0, if no other is given."""
    row = {"says": says, "data": data} | interval_columns("effect", effect)
    return row | {"unit": unit, "verdict": verdict or above(effect), "why": why}


def many_fail(evidence: Evidence) -> Iterator[Row]:
    """Claim 1: many modules fail."""
    says = "a third or more of the methods that gain on the source lose on the target"
    able = [name for name, each in evidence.methods.items() if _mean(each, "source_gain") > 0]
    data, effect = "no complete method gains on the source", None
    if able:
        gains = evidence.scores(able, "gain")
        # The share of methods whose mean gain over tasks is below 0.
        effect = estimate(
            dict(zip(able, gains, strict=True)),
            statistic=lambda *of_methods: np.mean([mean(each) < 0 for each in of_methods], axis=0),
        )
        data = f"{int((gains.mean(axis=1) < 0).sum())} of {len(able)} methods"
    verdict = above(effect, MANY)
    yield _finding(says, data, effect, verdict, evidence.not_counted, "of these methods")


def depth_decides(evidence: Evidence) -> Iterator[Row]:
    """Claim 2: shallow modules survive better than deep ones."""
    groups = [evidence.of_depth("shallow"), evidence.of_depth("deep")]
    data = f"{len(groups[0])} shallow and {len(groups[1])} deep methods"
    gains = [evidence.scores(names, "gain") for names in groups]
    before = [evidence.scores(names, "source_gain") for names in groups]
    changes = [after - first for after, first in zip(gains, before, strict=True)]
    for says, tables in (
        ("shallow modules gain more on the target than deep ones", gains),
        ("shallow modules lose less of their gain in the upgrade than deep ones", changes),
    ):
        if not all(groups):
            yield _finding(says, data, why="one kind of method is missing")
            continue
        effect, why = crossed_interval(tables), [evidence.not_counted]
        said = verdict = above(effect)
        if needed := list(_needed(groups, tables, said)):
            verdict = "not decided"
            title = evidence.methods[needed[0]].info.title
            shown = title if len(needed) == 1 else f"any one of {len(needed)} methods"
            why.append(f"the interval says {said}, but without {shown} it does not")
        yield _finding(says, data, effect, verdict, "; ".join(filter(None, why)))


def _needed(
    groups: Sequence[Sequence[str]], tables: Sequence[Array], said: Verdict
) -> Iterator[str]:
    """The methods without any one of which the verdict would be another."""
    for i, (names, table) in enumerate(zip(groups, tables, strict=True)):
        for row, name in enumerate(names if len(names) > 1 and said != "not decided" else ()):
            others = [*tables]
            others[i] = np.delete(table, row, axis=0)
            if above(crossed_interval(others)) != said:
                yield name


def contcoop_is_best(evidence: Evidence) -> Iterator[Row]:
    """Claim 3: ContCoOp is the best method; of a suite with several readings, each of them."""
    methods, groups = evidence.methods, {"": list(evidence.methods)}
    readings = {CONTCOOP: None, **dict.fromkeys(evidence.readings)}
    if len(readings) == 1 or evidence.of_depth("deep"):
        groups[" of the methods at the text input"] = evidence.of_depth("shallow")
    for (group, names), reading in product(groups.items(), readings):
        title = "ContCoOp" if reading == CONTCOOP else evidence.readings[reading].info.title
        says = f"{title} has the highest H{group}"
        h = {name: _mean(methods[name], "h") for name in names if name != CONTCOOP}
        if reading not in evidence.readings or not h:
            yield evidence.missing(says, [reading])
            continue
        best = max(h, key=lambda name: (h[name], name))
        place = 1 + sum(value > _mean(evidence.readings[reading], "h") for value in h.values())
        of_reading, of_best = evidence.scores([reading, best], "h")
        data = f"against {methods[best].info.title}; rank {place} of {len(h) + 1}"
        why = "the best of many is chosen by these same results, which favours it"
        yield _finding(says, data, estimate(of_reading - of_best), why=why, unit="points of H")


def gains_as_reported(evidence: Evidence) -> Iterator[Row]:
    """Claim 4: ContCoOp gains as much as reported."""
    for measure, (reported, title) in REPORTED.items():
        says = (
            f"ContCoOp gains {reported:+.2f} points of {title} or more over CoOp, CoCoOp and KgCoOp"
        )
        if without := [name for name in NAMED if name not in evidence.methods]:
            yield evidence.missing(says, without)
            continue
        contcoop, *baselines = evidence.scores(NAMED, measure)
        effect = estimate(contcoop - np.mean(baselines, axis=0))
        assert effect is not None  # every score is a number
        data = f"against the mean of {len(BASELINES)} baselines"
        yield _finding(says, data, effect, as_reported(effect, reported))


def holds_elsewhere(evidence: Evidence) -> Iterator[Row]:
    """Claim 5: ContCoOp's lead holds out of distribution, on variants of its task."""
    expected, results = evidence.page.expected, evidence.page.results.methods
    parents = {v: task for task in expected.tasks for v in expected.variants.get(task, ())}
    sets = tuple((task, variant) for variant, task in parents.items())
    complete: dict[str, Standing] = {}
    for name in (name for name in NAMED if name in results):
        how = expected, evidence.upgrade, evidence.shots, sets
        if (standing := compute_standing(results[name], *how)).is_measured:
            complete[name] = standing
    families = set(parents.values())
    data = f"{len(parents)} variants of {count(len(families), 'task')}, {evidence.seeds}"
    # Variants of a task share one trained module, so each family counts once.
    by = "family" if len(families) > 1 else None
    why = "variants of one task share one module, so the interval covers other variants, not other "
    why += "tasks"
    for measure, what, names, unit in (
        ("gain", "ContCoOp beats the target's zero-shot", NAMED[:1], "points"),
        ("h", "ContCoOp's H is higher than the baselines' mean", NAMED, "points of H"),
    ):
        says = f"on the variants of its task {what}"
        if not parents:
            yield _finding(says, "no variants", why="the suite has no variants")
        elif without := [name for name in names if name not in complete]:
            yield evidence.missing(says, without)
        else:
            founding, *others = (
                np.array([*complete[name].by_task(measure).values()]) for name in names
            )
            leads = founding - sum(others) / len(others) if others else founding
            by_variant = {"family": [*parents.values()], "lead": leads}
            effect = estimate(by_variant, by) if by else estimate(leads)
            yield _finding(says, data, effect, why="" if by else why, unit=unit)


def above(effect: Interval | None, bound: float = 0.0) -> Verdict:
    """The verdict on a claim that the effect is greater than a bound."""
    if effect is None or not effect.decides:
        return "not decided"
    if effect.low > bound:
        return "supported"
    return "contradicted" if effect.high < bound else "not decided"


def as_reported(effect: Interval, reported: float) -> Verdict:
    """The verdict on a reported gain: the interval lies above 0, and reaches what was reported."""
    if effect.decides and effect.high < reported:
        return "contradicted"
    return "supported" if above(effect) == "supported" else "not decided"


def _mean(standing: Standing, measure: MeasureName) -> float:
    if (over_tasks := standing.mean(measure)) is None:
        raise ValueError(f"{standing.info.name} is not complete")
    return over_tasks.value
