"""Places and ties by hand; rank tests against scipy and the worked example of Demšar (2006)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from synthetic_results import (
    CELLS,
    COOP,
    PROBE,
    TWO_BY_TWO,
    UPGRADE,
    ZEROSHOT,
    make_method,
    make_page,
    make_pairs,
    make_row,
    make_suite,
    on_tasks,
    through_words,
)

from compatbench.errors import CompatbenchError
from compatbench.harmonic_mean import harmonic_mean
from compatbench.results.estimate import draw_resamples
from compatbench.results.expected import Expected
from compatbench.results.method_results import MethodInfo, MethodResults
from compatbench.results.ranking_table import Results
from compatbench.results.ranks import (
    Ranked,
    critical_difference,
    first_shares,
    rank_datasets,
    rank_methods,
    rank_test,
    rank_upgrades,
)
from compatbench.results.standing import Standing, compute_standing, dataset_means, measure_interval
from compatbench.tables.ranking import explain_unranked


def standing(name: str, values: list[int], info: MethodInfo = COOP) -> Standing:
    """Source and target accuracy are equal, so H is the value itself."""
    figures = {cell: (value, value) for cell, value in zip(CELLS, values, strict=False)}
    results = make_method(replace(info, name=name), make_pairs(figures, method=name))
    return compute_standing(results, TWO_BY_TWO, UPGRADE, 4)


def places(ranks: list[Ranked]) -> list[tuple[str, str]]:
    return [(one.rank, one.standing.info.name) for one in ranks]


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
    standings = [standing(name, figures) for name, figures in values.items()]
    assert places(rank_methods(standings)) == expected
    assert places(rank_methods(standings[::-1])) == expected


def test_a_method_that_learns_nothing_is_compared_at_every_seed() -> None:
    floor = standing("zeroshot", [50, 50], ZEROSHOT)
    ranked = rank_methods([floor, standing("a", [60, 61, 62, 63])])
    assert places(ranked) == [("1", "a"), ("2", "zeroshot")]


ONE_CELL = dict(tasks=("cats",), seeds=(1,))
NULL = ("null", "since it changes fewer than 1 % of zero-shot's answers, on source and target")


@pytest.mark.parametrize(
    ("suite", "changed", "expected", "reason"),
    [
        (ONE_CELL, None, [("1=", "b"), ("1=", "a")], None),  # one dataset tells nothing apart
        (
            ONE_CELL | {"unranked": {"b": "too small"}},
            None,
            [("1", "a"), ("", "b")],
            ("not ranked", "here: too small"),
        ),
        # A module that changes next to no answer on source and target.
        ({}, (0.2, 0.9), [("1", "a"), ("", "b")], NULL),
        ({}, (0.2, 1.1), [("1", "b"), ("2", "a")], None),
        ({}, None, [("1", "b"), ("2", "a")], None),  # it is not known, and so it is not said
    ],
)
def test_a_method_with_figures_and_no_place_has_a_reason(
    suite: Any, changed: tuple | None, expected: list, reason: tuple | None
) -> None:
    methods = []
    for name, h in (("a", 50), ("b", 51)):
        rows = make_pairs(dict.fromkeys(CELLS, (h, h)), method=name)
        if name == "b" and changed:
            by_backbone = dict(zip(UPGRADE, changed, strict=True))
            rows = [row.model_copy(update={"changed": by_backbone[row.backbone]}) for row in rows]
        methods.append(make_method(replace(COOP, name=name), rows))
    ranked = rank_upgrades(methods, replace(TWO_BY_TWO, **suite), (UPGRADE,), 4)
    assert places(ranked) == expected
    assert {row.standing.info.name: row.value("h") for row in ranked} == {"a": 50, "b": 51}
    assert explain_unranked(ranked) == ([("CoOp", *reason)] if reason else [])


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
    [ranked] = rank_upgrades([method], expected, (UPGRADE,), 4)
    assert (ranked.standing.state, ranked.rank == "") == (state, state != "complete")
    assert ranked.standing.is_measured
    if state == "at chance":
        assert ranked.place == "at chance"
        why = "with 5.5 on the target, less than twice what guessing gives"
        assert explain_unranked([ranked]) == [("CoOp", "at chance", why)]


# Of 100 images, on cats and on dogs.
RIGHT = {"old": (50, 60), "kin": (70, 40), "cousin": (30, 20), "stranger": (10, 5)}


@pytest.mark.parametrize("leave_out", ["", "cousin"])
def test_a_group_s_means_are_over_its_own_upgrades_and_datasets(leave_out: str) -> None:
    rows = [
        make_row(correct, task=task, backbone=backbone)
        for backbone, both in RIGHT.items()
        for task, correct in zip(("cats", "dogs"), both, strict=True)
        if backbone != leave_out
    ]
    kin, strangers = (("old", "kin"), ("old", "cousin")), (("old", "stranger"),)
    expected = Expected(("cats", "dogs"), (4,), (1,), (*kin, *strangers))
    methods = [make_method(COOP, rows)]
    [ranked] = rank_upgrades(methods, expected, kin, 4)
    [other] = rank_upgrades(methods, expected, strangers, 4)
    assert other.standing.state == "complete"
    if leave_out:
        assert ranked.standing.state == "incomplete"
        return
    h = np.mean([harmonic_mean(RIGHT["old"], RIGHT[name]) for name in ("kin", "cousin")])
    assert (ranked.value("h"), ranked.value("target")) == (pytest.approx(h, abs=1e-4), 40)
    # A dataset counts once, however many upgrades are joined.
    assert dataset_means(ranked.standing, "target") == {"cats": 50, "dogs": 30}
    interval = measure_interval(ranked.standing, "target")
    assert (interval.value, interval.units) == (40, 2)


def test_ranks_need_three_complete_methods_and_two_datasets() -> None:
    eight = Expected(tuple("abcdefgh"), (4,), (1, 2), (UPGRADE,))
    methods = [on_tasks(f"m{right}", range(right, right + 8)) for right in (10, 40, 50, 60)]
    assert rank_datasets(make_page(*methods[:2], expected=eight).ranks(UPGRADE, 4)) is None
    one = replace(eight, tasks=eight.tasks[:1])
    assert rank_datasets(make_page(*methods, expected=one).ranks(UPGRADE, 4)) is None
    broken = replace(methods[0], rows=methods[0].rows[:-1])
    found = rank_datasets(make_page(broken, *methods[1:], expected=eight).ranks(UPGRADE, 4))
    assert [one.standing.info.name for one in found[0]] == ["m60", "m50", "m40"]


# Table 6 there: area under the curve of four variants of C4.5 on fourteen data sets. Two
# figures of the last row but one are printed alike, but were ranked before rounding.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.97501, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
).T

tables = st.integers(3, 6).flatmap(
    lambda methods: st.lists(st.tuples(*[st.integers(0, 9)] * methods), min_size=2, max_size=8)
)


def test_the_worked_example_gives_the_published_figures() -> None:
    found = rank_test(DEMSAR)
    assert found.ranks == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=5e-4)
    # The published 9.28 is without the correction for ties.
    k, n = DEMSAR.shape
    plain = 12 * n / (k * (k + 1)) * (sum(r * r for r in found.ranks) - k * (k + 1) ** 2 / 4)
    assert plain == pytest.approx(9.28, abs=5e-3)
    assert found.statistic > plain
    assert found.p_value == pytest.approx(stats.chi2.sf(found.statistic, df=3))
    assert found.critical_difference == pytest.approx(1.25, abs=5e-3)
    assert critical_difference(4, 14, alpha=0.10) == pytest.approx(1.12, abs=5e-3)


def test_critical_differences_are_the_known_ones() -> None:
    known = {15: [0.86, 1.58, 2.33, 3.50], 11: [1.00, 1.84, 2.72, 4.08]}
    for datasets, differences in known.items():
        found = [critical_difference(methods, datasets) for methods in (3, 5, 7, 10)]
        assert found == pytest.approx(differences, abs=6e-3)


@given(tables)
def test_ranks_are_shared_out_whatever_the_scores_and_their_order(
    table: list[tuple[int, ...]],
) -> None:
    by_method = np.array(table).T
    ranks, methods = rank_test(by_method).ranks, len(by_method)
    assert sum(ranks) == pytest.approx(methods * (methods + 1) / 2)
    assert rank_test(by_method * 3 + 1).ranks == pytest.approx(ranks)
    assert rank_test(-by_method).ranks == pytest.approx([methods + 1 - rank for rank in ranks])
    found, turned = rank_test(by_method), rank_test(by_method[::-1, ::-1])
    assert turned.statistic == pytest.approx(found.statistic)
    assert turned.p_value == pytest.approx(found.p_value)
    assert turned.ranks == pytest.approx(found.ranks[::-1])


def test_methods_that_never_differ_are_never_told_apart() -> None:
    found = rank_test(np.full((4, 6), 50.0))
    assert (found.statistic, found.p_value) == (0.0, 1.0)


def test_first_shares_are_those_of_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(5, 7)).round(2)
    scores[4] = scores[0]  # equal methods share a draw
    shares = np.zeros(5)
    for draw in draw_resamples(7):
        means = [sum(row[i] for i in draw) / 7 for row in scores]
        first = [i for i, value in enumerate(means) if value > max(means) - 1e-9]
        shares[first] += 1 / len(first)
    found = first_shares([dict(enumerate(row)) for row in scores.tolist()])
    assert found == pytest.approx(100 * shares / 2000)
    assert sum(value or 0 for value in found) == pytest.approx(100)
    assert first_shares([{"one": 1.0}, {"one": 2.0}]) == [None, None]
    assert first_shares([]) == []


def by_cell(info: MethodInfo, source: int, target: int) -> MethodResults:
    """Dogs, and the second seed, have 10 more right on the target."""
    cells = {("cats", 1): (source, target)}
    cells |= dict.fromkeys((("dogs", 1), ("cats", 2), ("dogs", 2)), (source, target + 10))
    return make_method(info, make_pairs(cells, method=info.name))


@pytest.fixture
def results() -> Results:
    partial = by_cell(replace(COOP, name="partial", title="Partial"), 50, 50)
    suite = make_suite(
        *(by_cell(COOP, 60, 50), by_cell(PROBE, 80, 20), by_cell(ZEROSHOT, 40, 60)),
        *(replace(partial, rows=partial.rows[:-1]), through_words(by_cell(PROBE, 80, 60))),
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
        (lambda one: one.restrict(seeds=[9]), "'9' is not one of"),
    ],
)
def test_what_is_not_here_is_named(results: Results, ask, says: str) -> None:
    with pytest.raises(CompatbenchError, match=says):
        ask(results)


def test_parts_figures_by_dataset_and_gaps(results: Results) -> None:
    one_seed = results.restrict(tasks=["cats"], seeds=[1])
    coop = one_seed.ranking("old", "new").set_index("method").loc["coop"]
    assert (coop["cells"], coop["source"], coop["target"]) == (1, 60, 50)
    frame = results.by_dataset("target", "old", "new")
    assert frame.loc["coop"].tolist() == [55, 60, 57.5]
    assert frame.loc["partial"].isna().tolist() == [False, True, True]
    [gap] = results.gaps().to_dict("records")
    assert (gap["method"], gap["kind"], gap["task"], gap["seed"], gap["backbone"]) == (
        *("partial", "missing", "dogs", 2, "new"),
    )
    assert len(results.frame) == 8 + 8 + 8 + 7 + 8
