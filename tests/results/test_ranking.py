"""Ranks and ties, computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_results import (
    COOP,
    PROBE,
    TWO_BY_TWO,
    UPGRADE,
    ZEROSHOT,
    lines_of,
    make_method,
    make_pairs,
    make_row,
    make_suite,
    through_words,
)
from scipy import stats

from compatbench.errors import CompatbenchError
from compatbench.harmonic_mean import harmonic_mean
from compatbench.results.estimate import estimate
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.public_results import Results
from compatbench.results.ranking import MEASURED, rank_methods
from compatbench.results.stored_method import MethodInfo, StoredMethod
from compatbench.results.ties import compare_with_best, count_tied, holm, paired_test, stability
from compatbench.results.upgrade_rows import pair_rows, task_means
from compatbench.tables.ranking_tables import explain_unranked

SIX_TASKS = replace(TWO_BY_TWO, tasks=tuple("abcdef"))


def on_cells(name: str, values: list[int], info: MethodInfo = COOP) -> StoredMethod:
    """Return a method whose source and target accuracy are equal, so that H is the value itself.

    Args:
        values: of the first three tasks and of the last three with seed 1, and then with seed 2.
    """
    counts = {}
    for place, value in enumerate(values):
        tasks = SIX_TASKS.tasks[:3] if place % 2 == 0 else SIX_TASKS.tasks[3:]
        for task in tasks:
            counts[task, place // 2 + 1] = (value, value)
    return make_method(replace(info, name=name), make_pairs(counts, method=name))


def rank(
    methods: Sequence[StoredMethod],
    expected: Expected = SIX_TASKS,
    upgrades: Sequence[Upgrade] = (UPGRADE,),
) -> pd.DataFrame:
    return rank_methods(make_suite(*methods), expected, upgrades, 4)


def places(ranking: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the rank, such as ``1=``, and the name of each method."""
    ranks = ranking["place"].where(ranking["rank"].notna(), "")
    return list(zip(ranks, ranking["method"], strict=True))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (  # places skip after a tie; 'mixed' against 'best': +6 -6 +7 -6
            {
                "low": [20, 20, 20, 20],
                "mixed": [54, 66, 53, 66],
                "best": [60, 60, 60, 60],
                "next": [50, 50, 50, 50],
            },
            [("1=", "best"), ("1=", "mixed"), ("3", "next"), ("4", "low")],
        ),
        ({"b": [50] * 4, "a": [50] * 4}, [("1=", "a"), ("1=", "b")]),
        (  # ties do not chain: 'third' is tied with 'second', but not with the first
            {"first": [60] * 4, "second": [57, 61, 57, 61], "third": [58] * 4},
            [("1=", "first"), ("1=", "second"), ("3", "third")],
        ),
        # A small but steady difference is no tie.
        ({"a": [51, 61, 71, 81], "b": [50, 60, 70, 80]}, [("1", "a"), ("2", "b")]),
    ],
)
def test_places_go_by_h(values: dict[str, list[int]], expected: list[tuple[str, str]]) -> None:
    methods = [on_cells(name, of_method) for name, of_method in values.items()]
    assert places(rank(methods)) == expected
    assert places(rank(methods[::-1])) == expected


def test_no_method_has_a_rank_on_fewer_than_six_tasks() -> None:
    methods = [on_cells("a", [60, 61, 62, 63]), on_cells("b", [50] * 4)]
    five = replace(SIX_TASKS, tasks=SIX_TASKS.tasks[:5])
    assert places(rank(methods, five)) == [("", "a"), ("", "b")]


def test_a_method_that_learns_nothing_is_compared_at_every_seed() -> None:
    floor = on_cells("zeroshot", [50, 50], ZEROSHOT)
    ranking = rank([floor, on_cells("a", [60, 61, 62, 63])])
    assert places(ranking) == [("1", "a"), ("2", "zeroshot")]


ONE_CELL = dict(tasks=("a",), seeds=(1,))
NULL = ("null", "it changes fewer than 1 % of the zero-shot predictions, on source and target")


@pytest.mark.parametrize(
    ("suite", "changed", "expected", "reason"),
    [
        (ONE_CELL, None, [("", "b"), ("", "a")], None),  # one dataset is too few for a rank
        ({"tasks": tuple("abcde")}, None, [("", "b"), ("", "a")], None),
        (
            ONE_CELL | {"unranked": {"b": "too small"}},
            None,
            [("", "a"), ("", "b")],
            ("not ranked", "here: too small"),
        ),
        # A module that changes next to no answer on source and target.
        ({}, (0.2, 0.9), [("1", "a"), ("", "b")], NULL),
        ({}, (0.2, 1.1), [("1", "b"), ("2", "a")], None),
        ({}, None, [("1", "b"), ("2", "a")], None),  # it is not known, and so it is not said
    ],
)
def test_a_method_with_numbers_and_no_place_has_a_reason(
    suite: Any, changed: tuple | None, expected: list, reason: tuple | None
) -> None:
    methods = []
    for name, h in (("a", 50), ("b", 51)):
        rows = lines_of(on_cells(name, [h] * 4))
        if name == "b" and changed:
            by_backbone = dict(zip(UPGRADE, changed, strict=True))
            rows = [row.model_copy(update={"changed": by_backbone[row.backbone]}) for row in rows]
        methods.append(make_method(replace(COOP, name=name), rows))
    ranking = rank(methods, replace(SIX_TASKS, **suite))
    assert places(ranking) == expected
    assert dict(zip(ranking["method"], ranking["h"], strict=True)) == {"a": 50, "b": 51}
    assert explain_unranked(ranking) == ([("CoOp", *reason)] if reason else [])


@pytest.mark.parametrize(
    ("on_target", "tasks", "state"),
    [
        ([3, 4, 5, 6, 7, 8], 6, "at chance"),  # guessing among 20 classes gives 5
        ([3, 4, 5, 6, 7, 8], 5, "complete"),  # too few tasks to say it
        ([3, 4, 5, 6, 7, 60], 6, "complete"),  # on some tasks it works
        ([12, 13, 12, 13, 12, 13], 6, "complete"),
    ],
)
def test_a_module_at_chance_has_no_rank(on_target: list[int], tasks: int, state: str) -> None:
    names = [f"task{number}" for number in range(6)][:tasks]
    cells = {(name, 1): (60, right) for name, right in zip(names, on_target, strict=False)}
    expected = Expected(tuple(names), (4,), (1,), (UPGRADE,), classes=dict.fromkeys(names, 20))
    method = make_method(COOP, make_pairs(cells))
    ranking = rank([method], expected)
    [row] = ranking.to_dict("records")
    assert (row["state"], pd.isna(row["rank"])) == (state, state != "complete" or tasks < 6)
    assert row["state"] in MEASURED
    if state == "at chance":
        assert row["place"] == "at chance"
        why = "with 5.5 on the target, less than twice what guessing gives"
        assert explain_unranked(ranking) == [("CoOp", "at chance", why)]


# Of 100 images, on cats and on dogs.
RIGHT = {"old": (50, 60), "kin": (70, 40), "cousin": (30, 20), "stranger": (10, 5)}


@pytest.mark.parametrize("leave_out", ["", "cousin"])
def test_a_group_s_means_are_over_its_own_upgrades_and_datasets(leave_out: str) -> None:
    rows = []
    for backbone, (cats, dogs) in RIGHT.items():
        if backbone != leave_out:
            rows.append(make_row(cats, task="cats", backbone=backbone))
            rows.append(make_row(dogs, task="dogs", backbone=backbone))
    kin = (("old", "kin"), ("old", "cousin"))
    strangers = (("old", "stranger"),)
    expected = Expected(("cats", "dogs"), (4,), (1,), (*kin, *strangers))
    methods = [make_method(COOP, rows)]
    [row] = rank(methods, expected, kin).to_dict("records")
    [other] = rank(methods, expected, strangers).to_dict("records")
    assert other["state"] == "complete"
    if leave_out:
        assert row["state"] == "incomplete"
        return
    h = np.mean([harmonic_mean(RIGHT["old"], RIGHT[name]) for name in ("kin", "cousin")])
    assert (row["h"], row["target"]) == (pytest.approx(h, abs=1e-4), 40)
    # A dataset counts once, however many upgrades are joined.
    both = [pair_rows(make_suite(*methods), expected, upgrade, 4) for upgrade in kin]
    [means] = task_means(pd.concat(both), "target").to_dict("records")
    assert means == {"cats": 50, "dogs": 30}
    interval = estimate([50, 30])
    assert (row["target_low"], row["target_high"]) == (max(interval.low, 0), 100)


def by_cell(info: MethodInfo, source: int, target: int) -> StoredMethod:
    """Dogs, and the second seed, have 10 more right on the target."""
    cells = {("cats", 1): (source, target)}
    cells |= dict.fromkeys((("dogs", 1), ("cats", 2), ("dogs", 2)), (source, target + 10))
    return make_method(info, make_pairs(cells, method=info.name))


def test_a_best_that_one_task_decides_is_not_stable() -> None:
    scores = pd.DataFrame({"a": [60, 61, 62, 63, 64, 90], "b": [61, 62, 63, 64, 65, 60]}).T
    compared = compare_with_best(scores)
    assert compared.index[0] == "a"
    assert not compared["worse"].any()
    steady = pd.DataFrame({"a": [61, 63, 62, 64, 65, 66], "b": [60, 61, 61, 62, 64, 64]}).T
    assert (count_tied(steady), stability(steady)) == (1, 1.0)
    # Without the last task, a alone is first.
    fragile = pd.DataFrame({"a": [61, 62, 62, 63, 65, 62], "b": [60, 61, 61, 61, 64, 65]}).T
    assert (count_tied(fragile), stability(fragile)) == (2, pytest.approx(5 / 6))


def test_p_values_are_those_of_scipy_corrected_by_hand() -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(50, 5, (4, 8))
    found = paired_test(scores)
    assert found == pytest.approx([stats.ttest_rel(scores[0], row).pvalue for row in scores[1:]])
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@pytest.fixture
def results() -> Results:
    partial = by_cell(replace(COOP, name="partial", title="Partial"), 50, 50)
    suite = make_suite(
        by_cell(COOP, 60, 50),
        by_cell(PROBE, 80, 20),
        by_cell(ZEROSHOT, 40, 60),
        replace(partial, rows=partial.rows[:-1]),
        through_words(by_cell(PROBE, 80, 60)),
    )
    return Results(suite, TWO_BY_TWO)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda one: one.ranking("old", "newer"), "'old → newer' is not one of old → new"),
        (lambda one: one.ranking("old", "new", shots=5), "shots: '5' is not one of"),
        (lambda one: one.ranking("old", "new", transfer="images"), "'images' is not one of copied"),
        (lambda one: one.by_dataset("speed", "old", "new"), "'speed' is not one of source"),
        (lambda one: one.restrict(tasks=["birds"]), "'birds' is not one of .*cats"),
        (lambda one: one.restrict(seeds=[9]), "seeds: '9' is not one of 1, 2"),
        (lambda one: one.restrict(seeds=9), "'9' is not one of"),
        (lambda one: one.restrict(methods=["coop", "nosuch"]), "methods: 'nosuch' is not one of"),
        (
            lambda one: one.restrict(methods="nosuch"),
            "methods: 'nosuch' is not one of coop, linear_probe",
        ),
        (lambda one: one.restrict(transfers=["images"]), "'images' is not one of copied, words"),
        (lambda one: one.restrict(shots=[]), "'shots' is empty; leave it out for all shots"),
        (
            lambda one: one.restrict(methods=set()),
            "'methods' is empty; leave it out for all methods",
        ),
    ],
)
def test_unknown_names_are_reported_with_the_known_ones(results: Results, ask, says: str) -> None:
    with pytest.raises(CompatbenchError, match=says):
        ask(results)


def test_one_value_and_a_list_of_one_give_the_same_part(results: Results) -> None:
    lists = results.restrict(["cats"], [1], [4], ["coop"], ["copied"]).ranking("old", "new")
    values = results.restrict("cats", 1, 4, "coop", "copied").ranking("old", "new")
    assert values["method"].tolist() == ["coop"]
    pd.testing.assert_frame_equal(values, lists)


def test_parts_figures_by_dataset_and_gaps(results: Results) -> None:
    one_seed = results.restrict(tasks=["cats"], seeds=[1])
    coop = one_seed.ranking("old", "new").set_index("method").loc["coop"]
    assert (coop["cells"], coop["source"], coop["target"]) == (1, 60, 50)
    frame = results.by_dataset("target", "old", "new")
    assert frame.loc["coop"].tolist() == [55, 60, 57.5]
    assert frame.loc["partial"].isna().tolist() == [False, True, True]
    [gap] = results.gaps().to_dict("records")
    found = [gap[name] for name in ("method", "kind", "task", "seed", "backbone")]
    assert found == ["partial", "missing", "dogs", 2, "new"]
    assert len(results.frame) == 8 + 8 + 8 + 7 + 8
