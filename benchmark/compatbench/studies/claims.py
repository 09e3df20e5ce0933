"""The paper's claims (arXiv:2412.20895), each held against a suite's results.

What the claims leave open is fixed here, before any result is looked at:

* A method *does well* if it gains on the source over the source's zero-shot; its module
  *fails* if it loses on the target against the target's. *Many* is a third or more.
* *Shallow* and *deep* are those of the method's card. Both methods and datasets are samples.
* The baselines of a reported gain are the prompt methods that the paper names.
* An interval of 95 % decides. Where kinds of methods are compared, it must do so without any
  one of the methods, too. Methods without a complete set of cells have no mean and take
  no part; modules that cannot be attached have no accuracy, and are counted.
* The paper claims nothing of methods of this project, which came after it; they take no part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np

from compatbench.pages.suite_page import SuitePage
from compatbench.results.bootstrap import (
    Array,
    Interval,
    crossed_interval,
    draw_resamples,
    mean_interval,
    percentile_interval,
)
from compatbench.results.measures import Measure, Standing, Upgrade, compute_standing
from compatbench.studies.verdicts import ClaimsReport, Finding, Verdict, above, as_reported

MANY = 1 / 3
OWN = "compatbench"  # what stands for the paper on the card of a method of this project
CONTCOOP = "contcoop"
BASELINES = ("coop", "cocoop", "kgcoop")
REPORTED: dict[Measure, float] = {"target": 3.57, "h": 2.68}  # points, averages
_NAMES: dict[Measure, str] = {
    "target": "target accuracy",
    "h": "H",
    "gain": "gain on the target",
    "source_gain": "gain on the source",
    "source": "source accuracy",
}


def check_claims(page: SuitePage, upgrade: Upgrade, shots: int) -> ClaimsReport:
    """Every claim that results can bear on, for one upgrade."""
    ranked = [one.standing for one in page.ranks(upgrade, shots)]
    ranked = [one for one in ranked if one.info.paper != OWN]
    complete = {one.info.name: one for one in ranked if one.state == "complete"}
    learned = {name: one for name, one in complete.items() if one.info.depth != "none"}
    refused = [one for one in ranked if one.state == "not transferable"]
    findings = [
        _many_fail(page, learned, refused),
        *_depth_decides(page, learned, refused),
        *_contcoop_is_best(page, learned),
        *_gains_as_reported(page, learned),
        *_holds_out_of_distribution(page, upgrade, shots),
    ]
    return ClaimsReport(page.name, upgrade, shots, (len(complete), len(ranked)), tuple(findings))


def _many_fail(
    page: SuitePage, methods: dict[str, Standing], refused: Sequence[Standing]
) -> Finding:
    says = "a third or more of the methods that gain on the source lose on the target"
    finding = partial(Finding, 1, says, unit="of these methods")
    able = [one for one in methods.values() if _value(one, "source_gain") > 0]
    if not able:
        return finding(
            data="no complete method gains on the source",
            effect=None,
            verdict="not decided",
            why=_not_counted(refused),
        )
    gains = np.array([_by_task(one, "gain", page) for one in able])
    failing = gains.mean(axis=1) < 0
    share = float(failing.mean())
    effect = Interval(share)
    if gains.shape[1] > 1:
        resampled = gains[:, draw_resamples(gains.shape[1])].mean(axis=2) < 0
        effect = percentile_interval(share, resampled.mean(axis=0))
    return finding(
        data=f"{int(failing.sum())} of {len(able)} methods, {_tasks(page)}",
        effect=effect,
        verdict=_at_least(effect, MANY),
        why=_not_counted(refused),
    )


def _depth_decides(
    page: SuitePage, methods: dict[str, Standing], refused: Sequence[Standing]
) -> list[Finding]:
    groups = [
        [one for one in methods.values() if one.info.depth == depth]
        for depth in ("shallow", "deep")
    ]
    counts = f"{len(groups[0])} shallow and {len(groups[1])} deep methods, {_tasks(page)}"
    losing = "shallow modules lose less of their gain in the upgrade than deep ones"
    winning = "shallow modules gain more on the target than deep ones"
    tests: list[tuple[str, Callable[[Standing], list[float]]]] = [
        (winning, lambda one: _by_task(one, "gain", page)),
        (
            losing,
            lambda one: _subtract(_by_task(one, "gain", page), _by_task(one, "source_gain", page)),
        ),
    ]
    findings = []
    for says, figures in tests:
        tables = [{one.info.title: figures(one) for one in group} for group in groups]
        if all(tables):
            effect = _compare_groups(tables)
            verdict, why = _unless_it_rests_on_one(tables, above(effect))
            why = "; ".join(filter(None, [_not_counted(refused), why]))
            findings.append(Finding(2, says, counts, effect, "points", verdict, why))
        else:
            why = "one kind of method is missing"
            findings.append(Finding(2, says, counts, None, "points", "not decided", why))
    return findings


def _compare_groups(tables: Sequence[Mapping[str, Sequence[float]]]) -> Interval:
    """The difference of two groups' means; methods and tasks are both drawn anew."""
    return crossed_interval([list(table.values()) for table in tables], _difference_of_means)


def _unless_it_rests_on_one(
    tables: Sequence[Mapping[str, Sequence[float]]], verdict: Verdict
) -> tuple[Verdict, str]:
    """The verdict, if it is the same without any one method; or none, and why."""
    if verdict == "not decided":
        return verdict, ""
    needed = []
    for i, table in enumerate(tables):
        for title in table if len(table) > 1 else ():
            rest = {name: row for name, row in table.items() if name != title}
            others = [rest if j == i else whole for j, whole in enumerate(tables)]
            if above(_compare_groups(others)) != verdict:
                needed.append(title)
    if not needed:
        return verdict, ""
    shown = needed[0] if len(needed) == 1 else f"any one of {len(needed)} methods"
    return "not decided", f"the interval says {verdict}, but without {shown} it does not"


def _contcoop_is_best(page: SuitePage, methods: dict[str, Standing]) -> list[Finding]:
    findings = []
    for group, names in (
        ("any other method", list(methods)),
        (
            "any other method at the text input",
            [n for n, m in methods.items() if m.info.depth == "shallow"],
        ),
    ):
        says = f"ContCoOp's H is higher than that of {group}"
        others = [name for name in names if name != CONTCOOP]
        if CONTCOOP not in methods or not others:
            findings.append(_missing(3, says, page))
            continue
        best = max(others, key=lambda name: (_value(methods[name], "h"), name))
        effect = _paired(page, methods, best, "h")
        place = 1 + sum(
            _value(methods[name], "h") > _value(methods[CONTCOOP], "h") for name in others
        )
        title = methods[best].info.title
        findings.append(
            Finding(
                3,
                says,
                f"against {title}, the best of {len(others)}; ContCoOp is number {place}; "
                f"{_tasks(page)}",
                effect,
                "points of H",
                above(effect),
                "the best of many is picked by these same results, which favours it",
            )
        )
    return findings


def _gains_as_reported(page: SuitePage, methods: dict[str, Standing]) -> list[Finding]:
    findings = []
    for measure, reported in REPORTED.items():
        says = (
            f"ContCoOp gains {reported:+.2f} points of {_NAMES[measure]} or more over CoOp, "
            "CoCoOp and KgCoOp"
        )
        lacking = [name for name in (CONTCOOP, *BASELINES) if name not in methods]
        if lacking:
            findings.append(_missing(4, says, page, lacking))
            continue
        own = np.array(_by_task(methods[CONTCOOP], measure, page))
        theirs = np.array([_by_task(methods[name], measure, page) for name in BASELINES])
        effect = mean_interval(own - theirs.mean(axis=0))
        findings.append(
            Finding(
                4,
                says,
                f"mean of {len(BASELINES)} baselines, {_tasks(page)}",
                effect,
                "points",
                as_reported(effect, reported),
            )
        )
    return findings


def _holds_out_of_distribution(page: SuitePage, upgrade: Upgrade, shots: int) -> list[Finding]:
    sets = [
        (task, variant)
        for task in page.expected.tasks
        for variant in page.expected.variants.get(task, ())
    ]
    beats_zero_shot = "on the variants of its task ContCoOp beats the target's zero-shot"
    beats_others = "on the variants of its task ContCoOp's H is higher than the baselines' mean"
    if not sets:
        why = "the suite has no variants"
        none = ("no variants", None, "points", "not decided", why)
        return [Finding(5, says, *none) for says in (beats_zero_shot, beats_others)]  # type: ignore[arg-type]
    standings = {
        name: [
            compute_standing(page.results.methods[name], page.expected, upgrade, shots, one)
            for one in sets
        ]
        for name in (CONTCOOP, *BASELINES)
        if name in page.results.methods
    }
    whole = {n: s for n, s in standings.items() if all(one.state == "complete" for one in s)}
    families = len({task for task, _ in sets})
    data = f"{len(sets)} variants of {families} task{'s' if families > 1 else ''}, {_seeds(page)}"
    why = (
        "variants of one task share one module, so the interval tells of other variants, not "
        "of other tasks"
        if families == 1
        else ""
    )
    findings = []
    if CONTCOOP in whole:
        effect = _over_families(sets, [_value(one, "gain") for one in whole[CONTCOOP]])
        findings.append(Finding(5, beats_zero_shot, data, effect, "points", above(effect), why))
    else:
        findings.append(_missing(5, beats_zero_shot, page))
    lacking = [name for name in (CONTCOOP, *BASELINES) if name not in whole]
    if lacking:
        return [*findings, _missing(5, beats_others, page, lacking)]
    own = [_value(one, "h") for one in whole[CONTCOOP]]
    theirs = [
        sum(_value(whole[name][i], "h") for name in BASELINES) / len(BASELINES)
        for i in range(len(sets))
    ]
    effect = _over_families(sets, _subtract(own, theirs))
    return [*findings, Finding(5, beats_others, data, effect, "points of H", above(effect), why)]


def _over_families(sets: Sequence[tuple[str, str]], values: Sequence[float]) -> Interval:
    """The mean of one figure per variant; each family counts once if there are several."""
    families = list(dict.fromkeys(task for task, _ in sets))
    if len(families) == 1:
        return mean_interval(values)
    means = []
    for family in families:
        own = [value for (task, _), value in zip(sets, values, strict=True) if task == family]
        means.append(sum(own) / len(own))
    return mean_interval(means)


def _paired(
    page: SuitePage, methods: dict[str, Standing], other: str, measure: Measure
) -> Interval:
    own, theirs = (_by_task(methods[name], measure, page) for name in (CONTCOOP, other))
    return mean_interval(_subtract(own, theirs))


def _by_task(standing: Standing, measure: Measure, page: SuitePage) -> list[float]:
    """A complete standing's means over seeds, one per task."""
    means = [standing.mean(measure, task) for task in page.expected.tasks]
    return [mean.value for mean in means if mean is not None]


def _value(standing: Standing, measure: Measure) -> float:
    mean = standing.mean(measure)
    assert mean is not None
    return mean.value


def _subtract(a: Iterable[float], b: Iterable[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _difference_of_means(a: Array, b: Array) -> float:
    return float(a.mean() - b.mean())


def _at_least(effect: Interval, bound: float) -> Verdict:
    """As ``above``, where the bound itself is enough."""
    if effect.bounded and effect.low >= bound:
        return "supported"
    return above(effect, bound)


def _missing(claim: int, says: str, page: SuitePage, names: Sequence[str] = (CONTCOOP,)) -> Finding:
    shown = ", ".join(names)
    word = "has" if len(names) == 1 else "have"
    why = f"{shown} {word} no complete results, so there is no mean"
    return Finding(claim, says, _tasks(page), None, "points", "not decided", why)


def _not_counted(refused: Sequence[Standing]) -> str:
    if not refused:
        return ""
    shallow = sum(one.info.depth == "shallow" for one in refused)
    count = f"{len(refused)} method{'s' if len(refused) > 1 else ''}"
    return (
        f"not counted: {count} whose modules cannot be attached "
        f"({shallow} shallow, {len(refused) - shallow} deep)"
    )


def _tasks(page: SuitePage) -> str:
    count = len(page.expected.tasks)
    return f"{count} task{'s' if count > 1 else ''}, {_seeds(page)}"


def _seeds(page: SuitePage) -> str:
    count = len(page.expected.seeds)
    return f"{count} seed{'s' if count > 1 else ''}"
