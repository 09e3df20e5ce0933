"""Claims on results whose verdict is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
from made_results import (
    COOP,
    PROBE,
    ZEROSHOT,
    by_task,
    lines_of,
    make_method,
    make_page,
    make_pairs,
    make_row,
    refuse,
)

from compatbench.extras.studies.claims import check_claims
from compatbench.extras.studies.frames import Row
from compatbench.results.expected import Expected
from compatbench.results.stored_method import MethodInfo, StoredMethod
from compatbench.tables.table import records

TASKS = tuple(f"t{i}" for i in range(6))
EXPECTED = Expected(tasks=TASKS, shots=(4,), seeds=(1, 2), upgrades=(("old", "new"),))
WOBBLE = (0, 1, -1, 2, -2, 0)  # of six tasks, in images of 100
SHALLOW = COOP
DEEP = PROBE
# Zero-shot is 40 right on the source, and 60 on the target.
NAMES = ("contcoop", "coop", "cocoop", "kgcoop")


def method(
    name: str, kind: MethodInfo, source: int, target: int, wobble: Sequence[int] = WOBBLE
) -> StoredMethod:
    """A method with these accuracies, a little more or less from task to task."""
    figures = {task: (source + by, target + by) for task, by in zip(TASKS, wobble, strict=True)}
    return by_task(name, kind, figures)


def findings(claim: int, *methods: StoredMethod, expected: Expected = EXPECTED) -> list[Row]:
    report = check_claims(make_page(*methods, expected=expected), ("old", "new"), 4)
    return [one for one in records(report.findings) if one["claim"] == claim]


def verdicts(found: list[Row]) -> list[str]:
    return [{"supported": "yes", "contradicted": "no"}.get(one["verdict"], "?") for one in found]


def many(kind: MethodInfo, count: int, source: int, target: int) -> list[StoredMethod]:
    """Methods with the same accuracies on source and target."""
    names = [f"{kind.depth}{source}-{target}-{i}" for i in range(count)]
    return [method(name, kind, source, target) for name in names]


def four(contcoop: tuple[int, int], others: tuple[int, int]) -> list[StoredMethod]:
    """ContCoOp, and the three baselines alike."""
    return [method(name, SHALLOW, *(contcoop if name == "contcoop" else others)) for name in NAMES]


@pytest.mark.parametrize(
    ("methods", "share", "verdict"),
    [
        ([*many(DEEP, 9, 55, 50), *many(DEEP, 3, 55, 70)], (9, 12), "yes"),
        ([*many(DEEP, 1, 55, 50), *many(DEEP, 15, 55, 70)], (1, 16), "no"),
        (many(DEEP, 6, 55, 70), (0, 6), "no"),
        (many(DEEP, 6, 55, 50), (6, 6), "yes"),
        # So few methods could be others, even if they agree.
        (many(DEEP, 5, 55, 70), (0, 5), "?"),
        (many(DEEP, 5, 55, 50), (5, 5), "?"),
        (many(DEEP, 2, 55, 50), (2, 2), "?"),
        ([*many(DEEP, 4, 55, 50), *many(DEEP, 2, 55, 70)], (4, 6), "?"),
        # Methods that do not do well on the source do not count.
        ([*many(DEEP, 5, 35, 30), *many(DEEP, 6, 55, 70)], (0, 6), "no"),
        (many(DEEP, 5, 35, 30), None, "?"),
        # A share that swings with the tasks.
        ([method(f"m{i}", DEEP, 60, 60, (15, -15, 15, -15, 1, -3)) for i in range(6)], (6, 6), "?"),
    ],
)
def test_many_fail_if_a_third_of_those_that_do_well_does(
    methods: list[StoredMethod], share: tuple[int, int] | None, verdict: str
) -> None:
    [_, finding] = findings(1, *methods)
    assert verdicts([finding]) == [verdict]
    assert finding["effect"] == (share and pytest.approx(share[0] / share[1]))
    assert not share or finding["data"].startswith(f"{share[0]} of {share[1]} methods")


def test_failures_are_counted_for_each_depth_and_collapsed_modules_are_named() -> None:
    shallow = many(SHALLOW, 4, 55, 65)
    deep = [*many(DEEP, 3, 55, 58), method("probe", DEEP, 55, 5)]
    of_shallow, of_deep = findings(1, *shallow, *deep)
    # A mean decides here. To lose is to have a whole interval below 0.
    assert "lose" not in of_shallow["says"]
    assert of_shallow["data"].startswith("0 of 4 methods; median gain +5.0")
    assert of_deep["data"].startswith("4 of 4 methods; median gain -2.0")
    assert of_shallow["why"] == ""
    named = "1 collapses, more than 10 points below zero-shot: probe -55.0"
    assert of_deep["why"] == f"of the deep ones {named}"


def test_one_collapsed_module_does_not_move_the_difference_of_depths() -> None:
    shallow = many(SHALLOW, 5, 55, 58)
    deep = many(DEEP, 5, 55, 58)
    same = findings(2, *shallow, *deep)
    with_probe = findings(2, *shallow, *deep, method("probe", DEEP, 55, 5))
    assert [one["effect"] for one in same] == [0, 0]
    assert [one["effect"] for one in with_probe] == [0, 0]
    assert "probe -55.0" in with_probe[0]["why"]


def test_methods_that_see_the_test_images_are_not_deep() -> None:
    seeing = [
        replace(one, info=replace(one.info, needs=("stream",))) for one in many(DEEP, 3, 55, 5)
    ]
    methods = [*many(SHALLOW, 3, 55, 65), *many(DEEP, 3, 56, 58)]
    assert findings(1, *methods, *seeing) == findings(1, *methods)
    assert findings(2, *methods, *seeing) == findings(2, *methods)
    assert findings(3, *four((60, 70), (55, 60)), *seeing) == findings(3, *four((60, 70), (55, 60)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shallow", "deep", "expected"),
    [
        ([(7, 55, 68)], [(8, 55, 50)], ["yes", "yes"]),
        ([(7, 55, 50)], [(8, 55, 68)], ["no", "no"]),
        # Few methods of one kind.
        ([(5, 55, 68)], [(8, 55, 50)], ["?", "?"]),
        # A gain may be higher although as much is lost.
        ([(7, 60, 70)], [(8, 50, 60)], ["yes", "?"]),
        # Methods that differ among themselves.
        ([(4, 55, 75), (4, 55, 45)], [(4, 55, 72), (4, 55, 44)], ["?", "?"]),
        # One kind alone.
        ([], [(7, 55, 50)], ["?", "?"]),
    ],
)
def test_depth_decides_where_shallow_modules_gain_more_and_lose_less(
    shallow: list[tuple[int, int, int]], deep: list[tuple[int, int, int]], expected: list[str]
) -> None:
    methods: list[StoredMethod] = []
    for group in shallow:
        methods += many(SHALLOW, *group)
    for group in deep:
        methods += many(DEEP, *group)
    assert verdicts(findings(2, *methods)) == expected


@pytest.mark.slow
def test_a_verdict_that_rests_on_one_method_is_none() -> None:
    shallow = many(SHALLOW, 7, 55, 65)
    deep = [method(f"d{i}", DEEP, 55, 60) for i in range(8)]
    other = method("other", DEEP, 55, 72)
    found = findings(2, *shallow, *deep, other)[0]
    assert found["effect_low"] > 0
    assert found["verdict"] == "not decided"
    limit = "the interval says supported, but without any one of 8 methods it does not"
    assert limit in found["why"]
    # With more of the many, it rests on none.
    more = [method(f"d{i}", DEEP, 55, 60) for i in range(8, 11)]
    assert findings(2, *shallow, *deep, *more, other)[0]["verdict"] == "supported"


@pytest.mark.parametrize(
    ("claim", "contcoop", "others", "rivals", "expected"),
    [
        # The best is the best of all, or of those at the text input.
        (3, (60, 70), (55, 60), [(50, 55)], ["yes", "yes"]),
        (3, (60, 70), (55, 60), [(75, 75)], ["no", "yes"]),
        (3, (60, 70), (75, 75), [(50, 55)], ["no", "no"]),
        (3, (60, 70), (60, 70), [(50, 55)], ["?", "?"]),
        # The whole interval must be beyond the reported gain.
        (4, (64, 64), (60, 60), [], ["yes", "yes"]),
        (4, (62, 62), (60, 60), [], ["no", "no"]),
        (4, (60, 60), (60, 60), [], ["no", "no"]),
    ],
)
def test_contcoop_is_compared_with_others(
    claim: int,
    contcoop: tuple[int, int],
    others: tuple[int, int],
    rivals: list[tuple[int, int]],
    expected: list[str],
) -> None:
    probes = [method("probe", DEEP, *figures) for figures in rivals]
    found = findings(claim, *four(contcoop, others), *probes)
    assert verdicts(found) == expected
    if claim == 4:
        assert [one["effect"] for one in found] == pytest.approx([contcoop[1] - 60] * 2)


@pytest.mark.parametrize(
    ("own", "others", "families", "expected"),
    [
        (66, 62, 6, ["yes", "yes"]),
        (55, 62, 6, ["no", "no"]),
        (60, 55, 6, ["?", "yes"]),
        (66, 62, 1, ["?", "?"]),  # of three variants
    ],
)
def test_variants_are_compared_with_zero_shot_and_with_the_baselines(
    own: int, others: int, families: int, expected: list[str]
) -> None:
    """Methods with so many right on every variant, on both backbones."""
    variants = {task: (f"{task}-a", f"{task}-b", f"{task}-c") for task in TASKS[:families]}
    methods = []
    for base in four((60, 60), (60, 60)):
        name = base.info.name
        rows = [
            make_row(right + by, method=name, task=task, test_set=one, seed=seed, backbone=where)
            for right in [own if name == "contcoop" else others]
            for task, of in variants.items()
            for one, by in zip(of, (0, 1, -1), strict=True)
            for seed, where in product((1, 2), ("old", "new"))
        ]
        methods.append(make_method(base.info, [*lines_of(base), *rows]))
    found = findings(5, *methods, expected=replace(EXPECTED, variants=variants))
    assert verdicts(found) == expected
    assert found[0]["data"].startswith(f"{3 * families} variants of {families} task")
    # Families have the same mean, so nothing is left to vary between them.
    assert (found[0]["effect_high"] == pytest.approx(found[0]["effect_low"])) == (families == 6)


def test_each_reading_of_contcoop_is_compared_with_the_other_methods() -> None:
    readings = [method("contcoop+a", SHALLOW, 70, 66), method("contcoop+b", SHALLOW, 50, 60)]
    page = make_page(*four((64, 64), (60, 60)), *readings, expected=EXPECTED)
    page = replace(page, configs={"contcoop+a": "contcoop", "contcoop+b": "contcoop"})
    report = check_claims(page, ("old", "new"), 4)
    found = [one for one in records(report.findings) if one["claim"] == 3]
    titles = [one["says"].removesuffix(" has the highest H") for one in found]
    assert titles == ["ContCoOp", "contcoop+a", "contcoop+b"]
    assert verdicts(found) == ["yes", "yes", "no"]
    assert all(" of 4, p = " in one["data"] for one in found)
    # Of the other claims configs are no methods.
    first = next(one for one in records(report.findings) if one["claim"] == 1)
    assert " of 4 methods" in first["data"]


NOISE = (
    (3, -2, 1, -4, 2, 0),
    (-3, 1, 4, -2, 0, 1),
    (1, 3, -4, 1, -2, 2),
    (-1, -3, 2, 4, 1, -3),
)


def test_the_best_of_many_is_not_decided_where_holms_correction_says_so() -> None:
    """A difference that is significant on its own, and not among many comparisons."""
    first = method("best", SHALLOW, 62, 62, (2, 0, 2, -1, 1, 0))
    contcoop = method("contcoop", SHALLOW, 60, 60, (0, 0, 1, -1, -1, 1))
    alone = findings(3, contcoop, first)
    assert alone[0]["effect_high"] < 0
    assert verdicts(alone) == ["no", "no"]
    others = [
        method(f"m{number}", SHALLOW, 60, 60, wobble) for number, wobble in enumerate(NOISE * 5)
    ]
    among_many = findings(3, contcoop, first, *others)
    assert among_many[0]["effect"] == alone[0]["effect"]
    assert verdicts(among_many) == ["?", "?"]


def test_a_verdict_on_the_best_says_in_how_many_rankings_it_holds() -> None:
    found = findings(3, *four((60, 70), (55, 60)))
    verdict = "the verdict on ContCoOp holds in 6 of 6 rankings with one task left out"
    assert found[0]["why"] == verdict


def test_a_reported_gain_is_supported_only_by_the_whole_interval() -> None:
    """Above 0 as a whole and around the reported 3.57 points, the gain decides nothing."""
    contcoop = method("contcoop", SHALLOW, 64, 64, (3, 1, -1, 2, -2, 0))
    baselines = [method(name, SHALLOW, 60, 60) for name in NAMES[1:]]
    target, _ = findings(4, contcoop, *baselines)
    assert 0 < target["effect_low"] < 3.57 < target["effect_high"]
    assert verdicts([target]) == ["?"]


def test_a_verdict_that_rests_on_a_collapsed_baseline_says_so() -> None:
    others = [method(name, SHALLOW, 62, 62) for name in ("cocoop", "kgcoop")]
    contcoop = method("contcoop", SHALLOW, 64, 64)
    collapsed = findings(4, contcoop, method("coop", SHALLOW, 62, 40), *others)
    assert verdicts(collapsed) == ["yes", "yes"]
    limit = "without the baseline coop, which collapses, the verdict is contradicted"
    assert [one["why"] for one in collapsed] == [limit, limit]
    # Without a collapse, and where the verdict stays, there is no such limit.
    assert [one["why"] for one in findings(4, *four((64, 64), (60, 60)))] == ["", ""]
    best = method("contcoop", SHALLOW, 80, 80)
    found = findings(4, best, method("coop", SHALLOW, 62, 40), *others)
    assert [one["why"] for one in found] == ["", ""]


def test_a_coop_of_fewer_context_vectors_is_a_baseline_beside_the_published_one() -> None:
    short = method("coop+context-4", SHALLOW, 63, 63)
    baselines = four((64, 64), (54, 54))
    page = make_page(*baselines, short, expected=EXPECTED)
    page = replace(page, configs={"coop+context-4": "coop"})
    report = check_claims(page, ("old", "new"), 4)
    found = [one for one in records(report.findings) if one["claim"] == 4]
    assert [one["effect"] for one in found] == pytest.approx([10, 10, 7, 7])
    assert "CoOp with 4 context vectors" in found[2]["data"]


def test_a_missing_cell_gives_no_mean_and_is_shown() -> None:
    whole = four((64, 64), (60, 60))
    partial = replace(whole[0], rows=whole[0].rows[:-1])
    report = check_claims(make_page(partial, *whole[1:], expected=EXPECTED), ("old", "new"), 4)
    assert (report.complete, report.methods) == (3, 4)
    of_contcoop = [one for one in records(report.findings) if one["claim"] in (3, 4, 5)]
    assert {one["verdict"] for one in of_contcoop} == {"not decided"}
    lacking = [one["why"] for one in of_contcoop if one["claim"] in (3, 4)]
    assert set(lacking) == {"contcoop has no complete results, so there is no mean"}


@pytest.mark.slow
def test_modules_that_cannot_be_attached_are_counted_not_averaged() -> None:
    refused = refuse(method("lfa", DEEP, 55, 50), "another width")
    methods = [*many(SHALLOW, 3, 55, 68), *many(DEEP, 3, 55, 50), refused]
    first = findings(1, *methods)[1]
    assert first["data"].startswith("3 of 3 methods")
    assert "1 method whose modules cannot be attached (0 shallow, 1 deep)" in first["why"]


def test_one_task_decides_nothing() -> None:
    expected = replace(EXPECTED, tasks=TASKS[:1])
    methods = [*four((80, 80), (60, 60)), *many(DEEP, 3, 55, 50)]
    found = check_claims(make_page(*methods, expected=expected), ("old", "new"), 4).findings
    assert set(found["verdict"]) == {"not decided"}
    assert found["effect_low"].isna().all()


def test_zero_shot_and_methods_of_this_project_take_no_part() -> None:
    floor = make_method(ZEROSHOT, make_pairs({(t, 1): (90, 90) for t in TASKS}, method="zeroshot"))
    assert verdicts(findings(3, *four((60, 70), (55, 60)), floor)) == ["yes", "yes"]
    published = [method(name, SHALLOW, 55, 65) for name in NAMES]
    own = method("own", replace(DEEP, paper="compatbench"), 90, 90)
    assert findings(3, *published, own) == findings(3, *published)
    report = check_claims(make_page(*published, own, expected=EXPECTED), ("old", "new"), 4)
    assert (report.complete, report.methods) == (4, 4)
