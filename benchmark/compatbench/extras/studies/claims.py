"""The paper's claims (arXiv:2412.20895), each compared with a suite's results.

Definitions that the claims leave open, fixed before any result was looked at:

* A method *does well* if its mean gain over zero-shot is above 0 on the source; its module *fails*
  if that is below 0 on the target. *Many* is a third or more.
* *Shallow* and *deep* are those of the method's card. Both methods and datasets are samples.
* The baselines of a reported gain are the prompt methods that the paper names.
* Methods without a complete set of cells have no mean and are left out; modules that cannot be
  attached have no accuracy, and are counted.
* Methods of this project came after the paper, which claims nothing about them; they are left out.

Rules of the verdict, tightened after the first results:

* A 95 % interval decides, if it is over six tasks or more, and over six methods or more of a kind
  where the claim is about kinds of methods (claims 1 and 2). A claim that names a size is supported
  only if the whole interval lies beyond that size.
* Kinds of methods (claim 2) are compared by their medians, because a mean of methods is decided by
  the few modules that collapse. Such a verdict must not depend on a single method, nor on the
  collapsed ones. Claim 4 names its baselines, so a collapsed one stays among them, and the report
  says if the verdict depends on it.
* Methods that see the test images are ranked apart. They are neither shallow nor deep.
* Being the best is decided by ``results/ties.py``: paired tests over tasks with Holm's correction
  for everything that is compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Literal

import pandas as pd

from compatbench.data.cards import COPIED, SuiteCard, suite_cards
from compatbench.errors import CompatbenchError
from compatbench.extras.studies.frames import (
    Row,
    StudyReport,
    crossed_interval,
    find_collapsed,
    share_below_zero,
    show_collapsed,
)
from compatbench.messages import count
from compatbench.results.estimate import (
    FEWEST_UNITS,
    Interval,
    estimate,
    interval_columns,
)
from compatbench.results.expected import Upgrade
from compatbench.results.ranking import MEASURED, rank_methods, rank_transfer
from compatbench.results.result_files import RESULTS, ResultFiles
from compatbench.results.ties import compare_with_best
from compatbench.results.upgrade_rows import NOT_TRANSFERABLE, pair_rows, task_means
from compatbench.tables.numbers import bounds, signed, with_interval
from compatbench.tables.suite_page import SuitePage, read_suite_page
from compatbench.tables.table import Table, plain_table, records, sentence, text

Verdict = Literal["supported", "contradicted", "not decided"]

OWN = "compatbench"  # in place of the paper, on the card of a method of this project
MANY = math.nextafter(1 / 3, 0)  # a third is many
CONTCOOP = "contcoop"
BASELINES = ("coop", "cocoop", "kgcoop")
NAMED = (CONTCOOP, *BASELINES)
# CoOp with a context of the length that the others have: on another model it loses less.
SHORT_COOP = "coop+context-4"
TITLES = {CONTCOOP: "ContCoOp", SHORT_COOP: "CoOp with 4 context vectors"}
# What is reported of ContCoOp, averages in points.
REPORTED = {"target": (3.57, "target accuracy"), "h": (2.68, "H")}
MEASURES = ("h", "target", "gain", "source_gain")


@dataclass(frozen=True)
class ClaimsReport(StudyReport):
    """The claims, compared with the results of one upgrade of a suite.

    Attributes:
        over: the tasks and seeds that effects are means over, unless a finding says otherwise.
        complete, methods: how many methods are complete, and how many have results.
        findings: one row for each thing that a claim says: number of the ``claim``; what it
            ``says``, as a sentence that can be wrong; the ``data`` it was computed from; the
            ``effect`` with its interval and ``unit``, if the results give one; the ``verdict``;
            ``why``: what is missing, or what limits the verdict.
    """

    suite: str
    upgrade: Upgrade
    shots: int
    over: str
    complete: int
    methods: int
    findings: pd.DataFrame

    def tables(self) -> list[Table]:
        """Return one row for each finding. A limit of several verdicts is stated once, below."""
        rows = []
        marks: dict[str, str] = {}
        for finding in records(self.findings):
            marks_of_row = []
            for limit in filter(None, (finding["why"] or "").split("; ")):
                marks.setdefault(limit, ascii_lowercase[len(marks)])
                marks_of_row.append(marks[limit])
            says = ": ".join(filter(None, (finding["says"], finding["data"])))
            if marks_of_row:
                says += f" [{', '.join(marks_of_row)}]"
            verdict = text(finding["verdict"]).bold()
            rows.append([str(finding["claim"]), says, show_effect(finding), verdict])
        header = ["Claim", "What it says, and of what", "Effect, 95 % interval", "Verdict"]
        head = (
            f"Suite {self.suite}, {' → '.join(self.upgrade)}, {self.shots} shots, {self.over}, "
            f"{self.complete} methods with all of their cells; effects in points, intervals over "
            "tasks, and of claims 1 and 2 over methods and tasks:"
        )
        notes = [f"[{mark}] {limit}" for limit, mark in marks.items()]
        return [plain_table(header, rows, range(4), sentence(head), notes)]


def show_effect(finding: Row) -> str:
    """Return ``+1.2 (-0.3 to +2.5)``; shares in percent."""
    if finding["unit"].startswith("of "):
        shown = with_interval(finding, "effect", lambda value: f"{100 * value:.0f}")
        value, space, interval = shown.partition(" ")
        return shown if finding["effect"] is None else f"{value} %{space}{interval}"
    return with_interval(finding, "effect")


def analyze_claims(suite: str | SuiteCard = "mini", out: str | Path = ".") -> list[ClaimsReport]:
    """Compare the founding paper's claims with results: supported, contradicted or undecided.

    The paper is arXiv:2412.20895. Each claim is shown with its data, the size of the effect, and a
    95 % interval over datasets, which decides the verdict if there are six or more. For claims on
    kinds of methods, the interval is over methods, too, and needs six. A missing cell gives no
    mean.

    Args:
        suite: as for ``run``.
        out: the folder of ``results/``; the largest number of shots is used.

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
    return [check_claims(page, upgrade, shots) for upgrade in page.leaderboard_upgrades]


def check_claims(page: SuitePage, upgrade: Upgrade, shots: int) -> ClaimsReport:
    """Compare every claim that results can test with one upgrade."""
    evidence = read_evidence(page, upgrade, shots)
    claims = (many_fail, depth_decides, contcoop_is_best, gains_as_reported, holds_elsewhere)
    findings = []
    for number, claim in enumerate(claims, start=1):
        for finding in claim(evidence):
            findings.append({"claim": number, **finding})
    return ClaimsReport(
        suite=page.card.name,
        upgrade=upgrade,
        shots=shots,
        over=f"{count(len(page.expected.tasks), 'task')}, {evidence.seeds}",
        complete=int(evidence.ranking["state"].isin(MEASURED).sum()),
        methods=len(evidence.ranking),
        findings=pd.DataFrame(findings),
    )


@dataclass(frozen=True)
class Evidence:
    """The results of one upgrade that claims are compared with.

    Attributes:
        ranking: methods by name, in the order of the ranking of copied modules, without methods
            of this project and those that see the test images.
        scores: of each measure, means over seeds of the complete methods, ``[methods, tasks]``.
        methods: the names of those that learn and are complete, without configs of others.
        readings: ContCoOp and its configs, by name: as the suite reads the paper.
        not_counted: a sentence on methods whose modules cannot be attached.
    """

    page: SuitePage
    upgrade: Upgrade
    shots: int
    ranking: pd.DataFrame
    scores: dict[str, pd.DataFrame]
    methods: list[str]
    readings: list[str]
    seeds: str
    not_counted: str

    def of_depth(self, depth: str) -> list[str]:
        """Return the names of the methods of a depth."""
        return [name for name in self.methods if self.ranking.loc[name, "depth"] == depth]

    def title(self, name: str) -> str:
        """Return the title of a method."""
        return TITLES.get(name) or str(self.ranking.loc[name, "title"])


def read_evidence(page: SuitePage, upgrade: Upgrade, shots: int) -> Evidence:
    """Read the results of one upgrade that claims are compared with."""
    ranking = rank_methods(page.results, page.expected, (upgrade,), shots)
    ranking = rank_transfer(ranking, COPIED)
    others = (ranking["paper"] != OWN) & ~ranking["sees_tests"]
    ranking = ranking[others].set_index("method")
    complete = ranking[ranking["state"].isin(MEASURED)]
    rows = pair_rows(page.results, page.expected, upgrade, shots)
    scores = {}
    for measure in MEASURES:
        means = task_means(rows, measure).loc[complete["module"]]
        scores[measure] = means.set_axis(complete.index, axis="index")
    learning = complete.index[complete["depth"] != "none"]
    refused = list(ranking.loc[ranking["state"] == NOT_TRANSFERABLE, "depth"])
    not_counted = ""
    if refused:
        kinds = f"{refused.count('shallow')} shallow, {refused.count('deep')} deep"
        what = f"{count(len(refused), 'method')} whose modules cannot be attached ({kinds})"
        not_counted = f"not counted: {what}"
    return Evidence(
        page=page,
        upgrade=upgrade,
        shots=shots,
        ranking=ranking,
        scores=scores,
        methods=[name for name in learning if name not in page.configs],
        readings=[name for name in learning if page.configs.get(name, name) == CONTCOOP],
        seeds=count(len(page.expected.seeds), "seed"),
        not_counted=not_counted,
    )


def _finding(
    says: str,
    data: str,
    effect: Interval | None = None,
    verdict: Verdict | None = None,
    why: Sequence[str] = (),
    unit: str = "points",
) -> Row:
    """Return a row of the report; by default the verdict is that on an effect above 0."""
    row = {"says": says, "data": data} | interval_columns("effect", effect)
    shown = "; ".join(filter(None, why))
    return row | {"unit": unit, "verdict": verdict or above(effect), "why": shown}


def _missing(says: str, names: Sequence[str]) -> Row:
    """Return the finding that nothing can be said without these methods."""
    has = "has" if len(names) == 1 else "have"
    return _finding(
        says, "", why=[f"{', '.join(names)} {has} no complete results, so there is no mean"]
    )


def many_fail(evidence: Evidence) -> Iterator[Row]:
    """Compare claim 1 with the results, for each depth: many modules fail."""
    for depth in ("shallow", "deep"):
        says = (
            f"a third or more of the {depth} methods with a mean gain above 0 on the source have "
            "one below 0 on the target"
        )
        names = evidence.of_depth(depth)
        before = evidence.scores["source_gain"].loc[names].mean(axis="columns")
        able = list(before.index[before > 0])
        if not able:
            data = f"no complete {depth} method has a mean gain above 0 on the source"
            yield _finding(says, data)
            continue
        gains = evidence.scores["gain"].loc[able]
        share = crossed_interval([gains.to_numpy()], share_below_zero)
        losing = int((gains.mean(axis="columns") < 0).sum())
        middle = crossed_interval([gains.to_numpy()])
        data = f"{losing} of {count(len(able), 'method')}; median gain {signed(middle.value)}"
        if middle.bounded:
            data += f" ({bounds(middle, signed)})"
        why = [evidence.not_counted, _apart(evidence, depth)]
        yield _finding(says, data, share, above(share, MANY), why, "of these methods")


def _apart(evidence: Evidence, depth: str) -> str:
    """Name the modules of a depth that collapse; an empty text if none does."""
    means = evidence.scores["gain"].loc[evidence.of_depth(depth)].mean(axis="columns")
    named = show_collapsed(means.rename(index=evidence.title))
    return f"of the {depth} ones {named}" if named else ""


def depth_decides(evidence: Evidence) -> Iterator[Row]:
    """Compare claim 2 with the results: shallow modules survive better than deep ones."""
    shallow = evidence.of_depth("shallow")
    deep = evidence.of_depth("deep")
    data = f"medians of {len(shallow)} shallow and {len(deep)} deep methods"
    gains = evidence.scores["gain"]
    changes = gains - evidence.scores["source_gain"]
    for says, table in (
        ("shallow modules gain more on the target than deep ones", gains),
        ("shallow modules lose less of their gain in the upgrade than deep ones", changes),
    ):
        if not shallow or not deep:
            yield _finding(says, data, why=["one kind of method is missing"])
            continue
        groups = [table.loc[shallow], table.loc[deep]]
        effect = crossed_interval([group.to_numpy() for group in groups])
        said = above(effect)
        why = [evidence.not_counted, _apart(evidence, "shallow"), _apart(evidence, "deep")]
        limits = [] if said == "not decided" else _find_limits(evidence, groups, said)
        yield _finding(says, data, effect, "not decided" if limits else said, [*why, *limits])


def _find_limits(evidence: Evidence, groups: Sequence[pd.DataFrame], said: Verdict) -> list[str]:
    """Return the methods on which a verdict depends, in words."""
    limits = []
    needed = []
    for name in [*groups[0].index, *groups[1].index]:
        if _without(groups, [name]) != said:
            needed.append(name)
    if needed:
        one = len(needed) == 1
        shown = evidence.title(needed[0]) if one else f"any one of {len(needed)} methods"
        limits.append(f"the interval says {said}, but without {shown} it does not")
    gains = evidence.scores["gain"].mean(axis="columns")
    collapsed = find_collapsed(gains)
    if len(collapsed) and _without(groups, list(collapsed.index)) != said:
        limits.append(f"the interval says {said}, but without the collapsed modules it does not")
    return limits


def _without(groups: Sequence[pd.DataFrame], names: Sequence[str]) -> Verdict:
    """Return the verdict without some methods; a kind of which none is left decides nothing."""
    left = [group.drop(index=names, errors="ignore").to_numpy() for group in groups]
    if not all(len(table) for table in left):
        return "not decided"
    return above(crossed_interval(left))


def contcoop_is_best(evidence: Evidence) -> Iterator[Row]:
    """Compare claim 3 with the results: ContCoOp, or a reading of it, is the best method."""
    groups = {"": evidence.methods}
    readings = [CONTCOOP, *(name for name in evidence.readings if name != CONTCOOP)]
    if len(readings) == 1 or evidence.of_depth("deep"):
        groups[" of the methods at the text input"] = evidence.of_depth("shallow")
    for group, names in groups.items():
        for reading in readings:
            rivals = [name for name in names if name != CONTCOOP]
            known = reading in evidence.readings
            title = evidence.title(reading) if known else "ContCoOp"
            says = f"{title} has the highest H{group}"
            if not known or not rivals:
                yield _missing(says, [reading])
                continue
            yield _compare_reading(evidence, says, reading, rivals)


def _compare_reading(evidence: Evidence, says: str, reading: str, rivals: Sequence[str]) -> Row:
    """Return the finding on a reading of ContCoOp beside the methods that are no reading."""
    scores = evidence.scores["h"].loc[[*rivals, reading]]
    means = scores.mean(axis="columns")
    best = str(means[list(rivals)].idxmax())
    place = 1 + int((means > means[reading]).sum())
    difference = (scores.loc[reading] - scores.loc[best]).to_numpy()
    data = f"against {evidence.title(best)}; rank {place} of {len(scores)}"
    verdict: Verdict = "not decided"
    why = []
    if len(scores.columns) >= FEWEST_UNITS:
        compared = compare_with_best(scores)
        # Of a reading that is first: the p value of the method that is least clearly worse.
        p_value = compared.loc[reading, "p"] if place > 1 else compared["p"].drop(reading).max()
        data += f", p = {p_value:.2g} by Holm"
        verdict = judge_best(scores, reading)
        if verdict != "not decided":
            title = evidence.title(reading)
            why.append(_stability(scores, reading, title, verdict))
    return _finding(says, data, estimate(difference), verdict, why, unit="points of H")


def judge_best(scores: pd.DataFrame, name: str) -> Verdict:
    """Return the verdict on a claim that a method is the best of ``[methods, tasks]``.

    It is supported if every other is significantly worse, and contradicted if the method itself is
    significantly worse than the best (``compare_with_best``).
    """
    compared = compare_with_best(scores)
    if compared.index[0] == name and compared["worse"].iloc[1:].all():
        return "supported"
    return "contradicted" if compared.loc[name, "worse"] else "not decided"


def _stability(scores: pd.DataFrame, name: str, title: str, verdict: Verdict) -> str:
    """Return, in words, how often a verdict holds with one task left out."""
    same = 0
    for task in scores.columns:
        same += judge_best(scores.drop(columns=[task]), name) == verdict
    rankings = f"{same} of {len(scores.columns)} rankings with one task left out"
    return f"the verdict on {title} holds in {rankings}"


def gains_as_reported(evidence: Evidence) -> Iterator[Row]:
    """Compare claim 4 with the results: ContCoOp gains as much as reported.

    The gain is over the paper's baselines, and over those with a CoOp of fewer context vectors:
    sixteen vectors from a random start lose more on another model than four do.
    """
    short = [SHORT_COOP if name == "coop" else name for name in BASELINES]
    for baselines in (list(BASELINES), short):
        if baselines == short and SHORT_COOP not in evidence.scores["h"].index:
            continue
        for measure, (reported, title) in REPORTED.items():
            says = f"ContCoOp gains {reported:+.2f} points of {title} or more"
            needed = [CONTCOOP, *baselines]
            missing = [name for name in needed if name not in evidence.scores[measure].index]
            if missing:
                yield _missing(says, missing)
                continue
            effect = _measure_lead(evidence, measure, baselines)
            verdict = above(effect, reported)
            titles = [evidence.title(name) for name in baselines]
            data = f"over the mean of {', '.join(titles[:-1])} and {titles[-1]}"
            why = _judge_without_collapsed(evidence, measure, baselines, verdict)
            yield _finding(says, data, effect, verdict, why)


def _measure_lead(evidence: Evidence, measure: str, baselines: Sequence[str]) -> Interval | None:
    """Return ContCoOp's lead over the mean of some baselines."""
    scores = evidence.scores[measure]
    lead = scores.loc[CONTCOOP] - scores.loc[list(baselines)].mean()
    return estimate(lead.to_numpy())


def _judge_without_collapsed(
    evidence: Evidence, measure: str, baselines: Sequence[str], verdict: Verdict
) -> list[str]:
    """Return, in words, the collapsed baselines without which the verdict on claim 4 differs."""
    reported, _ = REPORTED[measure]
    gains = evidence.scores["gain"].loc[list(baselines)].mean(axis="columns")
    limits = []
    for name in find_collapsed(gains).index:
        others = [baseline for baseline in baselines if baseline != name]
        without = above(_measure_lead(evidence, measure, others), reported)
        if without != verdict:
            baseline = f"the baseline {evidence.title(str(name))}, which collapses"
            limits.append(f"without {baseline}, the verdict is {without}")
    return limits


def holds_elsewhere(evidence: Evidence) -> Iterator[Row]:
    """Compare claim 5 with the results: ContCoOp's lead holds on variants of its task."""
    page = evidence.page
    parents = {}
    for task in page.expected.tasks:
        for variant in page.expected.variants.get(task, ()):
            parents[variant] = task
    sets = tuple((task, variant) for variant, task in parents.items())
    families = list(parents.values())
    by_family = len(set(families)) > 1
    data = f"{len(parents)} variants of {count(len(set(families)), 'task')}, {evidence.seeds}"
    # Variants of a task share one trained module, so each family counts once.
    limit = (
        "variants of one task share one module, so the interval covers other variants, not other "
        "tasks"
    )
    for measure, what, names, unit in (
        ("gain", "ContCoOp beats the target's zero-shot", NAMED[:1], "points"),
        ("h", "ContCoOp's H is higher than the baselines' mean", NAMED, "points of H"),
    ):
        says = f"on the variants of its task {what}"
        if not parents:
            yield _finding(says, "no variants", why=["the suite has no variants"])
            continue
        scores = _means_on(evidence, sets, measure)
        missing = [name for name in names if name not in scores.index]
        if missing:
            yield _missing(says, missing)
            continue
        leads = scores.loc[CONTCOOP]
        if len(names) > 1:
            leads = leads - scores.loc[list(BASELINES)].mean()
        figures = {"family": families, "lead": leads.to_numpy()}
        effect = estimate(figures, "family") if by_family else estimate(leads.to_numpy())
        yield _finding(says, data, effect, why=[] if by_family else [limit], unit=unit)


def _means_on(evidence: Evidence, sets: tuple[tuple[str, str], ...], measure: str) -> pd.DataFrame:
    """Return a measure of ContCoOp and its baselines on other test sets, ``[methods, sets]``."""
    page = evidence.page
    results = page.results.restrict(methods=NAMED, transfers=[COPIED])
    rows = pair_rows(results, page.expected, evidence.upgrade, evidence.shots, sets)
    means = task_means(rows, measure)
    names = rows.drop_duplicates("module").set_index("module")["method"]
    return means.set_axis(names.loc[means.index], axis="index")


def above(effect: Interval | None, bound: float = 0.0) -> Verdict:
    """Return the verdict on a claim that the effect is greater than a bound."""
    if effect is None or not effect.decides:
        return "not decided"
    if effect.low > bound:
        return "supported"
    return "contradicted" if effect.high < bound else "not decided"
