"""What each claim of the paper says, and whether results support it; rules in ``claims``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd

from compatbench.pages.suite_page import SuitePage
from compatbench.results.bootstrap import (
    Array,
    Interval,
    crossed_interval,
    draw_resamples,
    family_means,
    mean_interval,
    percentile_interval,
)
from compatbench.results.measures import Measure, Standing, Upgrade, compute_standing
from compatbench.studies.study_report import interval_columns, task_means

Verdict = Literal["supported", "contradicted", "not decided"]
Finding = dict[str, Any]  # a row of ClaimsReport.findings

MANY = 1 / 3
CONTCOOP = "contcoop"
BASELINES = ("coop", "cocoop", "kgcoop")
REPORTED: dict[Measure, float] = {"target": 3.57, "h": 2.68}  # points, averages
_NAMES: dict[Measure, str] = {"target": "target accuracy", "h": "H"}


@dataclass(frozen=True)
class Evidence:
    """What the claims are held against.

    Attributes:
        methods: those that learn and are complete.
        refused: methods whose modules cannot be attached.
    """

    page: SuitePage
    methods: Mapping[str, Standing]
    refused: Sequence[Standing]

    def scores(self, names: Sequence[str], measure: Measure) -> Array:
        """Means over seeds, ``[methods, tasks]``."""
        tasks = self.page.expected.tasks
        return np.array([task_means(self.methods[name], measure, tasks) for name in names])

    def of_depth(self, depth: str) -> list[str]:
        return [name for name, one in self.methods.items() if one.info.depth == depth]

    @property
    def tasks(self) -> str:
        return f"{_count(len(self.page.expected.tasks), 'task')}, {self.seeds}"

    @property
    def seeds(self) -> str:
        return _count(len(self.page.expected.seeds), "seed")

    @property
    def not_counted(self) -> str:
        shallow = sum(one.info.depth == "shallow" for one in self.refused)
        if not self.refused:
            return ""
        return (
            f"not counted: {_count(len(self.refused), 'method')} whose modules cannot be attached "
            f"({shallow} shallow, {len(self.refused) - shallow} deep)"
        )

    def missing(self, claim: int, says: str, names: Sequence[str] = (CONTCOOP,)) -> Finding:
        """The finding that nothing can be said without these methods."""
        has = "has" if len(names) == 1 else "have"
        why = f"{', '.join(names)} {has} no complete results, so there is no mean"
        return _finding(claim, says, self.tasks, why=why)


def _finding(
    claim: int,
    says: str,
    data: str,
    effect: Interval | None = None,
    verdict: Verdict = "not decided",
    why: str = "",
    unit: str = "points",
) -> Finding:
    row = {"claim": claim, "says": says, "data": data} | interval_columns("effect", effect)
    return row | {"unit": unit, "verdict": verdict, "why": why}


def many_fail(evidence: Evidence) -> Finding:
    """Claim 1: many modules fail."""
    says = "a third or more of the methods that gain on the source lose on the target"
    finding = partial(_finding, 1, says, unit="of these methods", why=evidence.not_counted)
    able = [name for name, one in evidence.methods.items() if _value(one, "source_gain") > 0]
    if not able:
        return finding("no complete method gains on the source")
    gains = evidence.scores(able, "gain")
    failing = gains.mean(axis=1) < 0
    effect = Interval(float(failing.mean()))
    if gains.shape[1] > 1:
        resampled = gains[:, draw_resamples(gains.shape[1])].mean(axis=2) < 0
        effect = percentile_interval(effect.value, resampled.mean(axis=0))
    # The bound itself is enough.
    many = effect.bounded and effect.low >= MANY
    data = f"{int(failing.sum())} of {len(able)} methods, {evidence.tasks}"
    return finding(data, effect, "supported" if many else above(effect, MANY))


def depth_decides(evidence: Evidence) -> list[Finding]:
    """Claim 2: shallow modules survive better than deep ones."""
    groups = [evidence.of_depth("shallow"), evidence.of_depth("deep")]
    data = f"{len(groups[0])} shallow and {len(groups[1])} deep methods, {evidence.tasks}"
    sentences = (
        "shallow modules gain more on the target than deep ones",
        "shallow modules lose less of their gain in the upgrade than deep ones",
    )
    if not all(groups):
        return [_finding(2, says, data, why="one kind of method is missing") for says in sentences]
    gains = [evidence.scores(names, "gain") for names in groups]
    changes = [
        gain - evidence.scores(names, "source_gain")
        for gain, names in zip(gains, groups, strict=True)
    ]
    titles = [[evidence.methods[name].info.title for name in names] for names in groups]
    findings = []
    for says, tables in zip(sentences, (gains, changes), strict=True):
        effect = _compare_groups(tables)
        verdict, why = _unless_one_method_decides(tables, titles, above(effect))
        why = "; ".join(filter(None, [evidence.not_counted, why]))
        findings.append(_finding(2, says, data, effect, verdict, why))
    return findings


def _compare_groups(tables: Sequence[Array]) -> Interval:
    """The difference of two groups' means; methods and tasks are both drawn anew."""
    return crossed_interval(tables, lambda a, b: float(a.mean() - b.mean()))


def _unless_one_method_decides(
    tables: Sequence[Array], titles: Sequence[Sequence[str]], verdict: Verdict
) -> tuple[Verdict, str]:
    """The verdict, if it is the same without any one method; or none, and why."""
    if verdict == "not decided":
        return verdict, ""
    needed = []
    for i, table in enumerate(tables):
        for row in range(len(table)) if len(table) > 1 else ():
            others = [*tables]
            others[i] = np.delete(table, row, axis=0)
            if above(_compare_groups(others)) != verdict:
                needed.append(titles[i][row])
    if not needed:
        return verdict, ""
    shown = needed[0] if len(needed) == 1 else f"any one of {len(needed)} methods"
    return "not decided", f"the interval says {verdict}, but without {shown} it does not"


def contcoop_is_best(evidence: Evidence) -> list[Finding]:
    """Claim 3: ContCoOp is the best method."""
    findings, methods = [], evidence.methods
    for group, names in (
        ("any other method", list(methods)),
        ("any other method at the text input", evidence.of_depth("shallow")),
    ):
        says = f"ContCoOp's H is higher than that of {group}"
        scores = {name: _value(methods[name], "h") for name in names if name != CONTCOOP}
        if CONTCOOP not in methods or not scores:
            findings.append(evidence.missing(3, says))
            continue
        best = max(scores, key=lambda name: (scores[name], name))
        place = 1 + sum(one > _value(methods[CONTCOOP], "h") for one in scores.values())
        own, theirs = evidence.scores([CONTCOOP, best], "h")
        effect = mean_interval(own - theirs)
        data = (
            f"against {methods[best].info.title}, the best of {len(scores)}; ContCoOp is number "
            f"{place}; {evidence.tasks}"
        )
        why = "the best of many is picked by these same results, which favours it"
        findings.append(_finding(3, says, data, effect, above(effect), why, "points of H"))
    return findings


def gains_as_reported(evidence: Evidence) -> list[Finding]:
    """Claim 4: ContCoOp gains what is reported."""
    findings = []
    for measure, reported in REPORTED.items():
        says = (
            f"ContCoOp gains {reported:+.2f} points of {_NAMES[measure]} or more over CoOp, "
            "CoCoOp and KgCoOp"
        )
        if without := [n for n in (CONTCOOP, *BASELINES) if n not in evidence.methods]:
            findings.append(evidence.missing(4, says, without))
            continue
        own, *theirs = evidence.scores([CONTCOOP, *BASELINES], measure)
        effect = mean_interval(own - np.mean(theirs, axis=0))
        data = f"mean of {len(BASELINES)} baselines, {evidence.tasks}"
        findings.append(_finding(4, says, data, effect, as_reported(effect, reported)))
    return findings


def holds_out_of_distribution(evidence: Evidence, upgrade: Upgrade, shots: int) -> list[Finding]:
    """Claim 5: ContCoOp's lead holds on variants of its task."""
    beats_zero_shot = "on the variants of its task ContCoOp beats the target's zero-shot"
    beats_others = "on the variants of its task ContCoOp's H is higher than the baselines' mean"
    expected, results = evidence.page.expected, evidence.page.results.methods
    parents = {v: task for task in expected.tasks for v in expected.variants.get(task, ())}
    if not parents:
        finding = partial(_finding, 5, data="no variants", why="the suite has no variants")
        return [finding(says=beats_zero_shot), finding(says=beats_others)]
    whole: dict[str, dict[str, Standing]] = {}
    for name in (CONTCOOP, *BASELINES):
        if name in results:
            found = {
                variant: compute_standing(results[name], expected, upgrade, shots, (task, variant))
                for variant, task in parents.items()
            }
            if all(one.state == "complete" for one in found.values()):
                whole[name] = found
    families = len(set(parents.values()))
    data = f"{len(parents)} variants of {_count(families, 'task')}, {evidence.seeds}"
    why = (
        "variants of one task share one module, so the interval tells of other variants, not "
        "of other tasks"
        if families == 1
        else ""
    )
    if CONTCOOP not in whole:
        findings = [evidence.missing(5, beats_zero_shot)]
    else:
        gains = {variant: _value(one, "gain") for variant, one in whole[CONTCOOP].items()}
        effect = _over_families(gains, parents)
        findings = [_finding(5, beats_zero_shot, data, effect, above(effect), why)]
    if without := [name for name in (CONTCOOP, *BASELINES) if name not in whole]:
        return [*findings, evidence.missing(5, beats_others, without)]
    h = pd.DataFrame(
        {name: {v: _value(one, "h") for v, one in found.items()} for name, found in whole.items()}
    )
    leads = h[CONTCOOP] - h[list(BASELINES)].mean(axis=1)
    effect = _over_families(leads.to_dict(), parents)
    unit = "points of H"
    return [*findings, _finding(5, beats_others, data, effect, above(effect), why, unit)]


def _over_families(values: Mapping[str, float], parents: Mapping[str, str]) -> Interval:
    """The mean of one figure per variant; each family counts once if there are several."""
    means = family_means(values, parents)
    return mean_interval(list((values if len(means) == 1 else means).values()))


def above(effect: Interval, bound: float = 0.0) -> Verdict:
    """The verdict on a claim that the effect is greater than a bound."""
    if not effect.bounded:
        return "not decided"
    if effect.low > bound:
        return "supported"
    return "contradicted" if effect.high < bound else "not decided"


def as_reported(effect: Interval, reported: float) -> Verdict:
    """The verdict on a reported gain: there is one, and it is not smaller than reported.

    Supported if the interval lies above 0 and reaches what was reported; contradicted if
    it lies below that, whether or not there is some gain.
    """
    if not effect.bounded:
        return "not decided"
    if effect.high < reported:
        return "contradicted"
    return "supported" if effect.low > 0 else "not decided"


def _value(standing: Standing, measure: Measure) -> float:
    mean = standing.mean(measure)
    assert mean is not None
    return mean.value


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"
