from __future__ import annotations

from dataclasses import replace

from synthetic_results import COOP, TWO_BY_TWO, ZEROSHOT, make_method, make_pairs

from compatbench.results.measures import Standing, compute_standing
from compatbench.results.ranks import rank_methods, tied_groups
from compatbench.results.store import MethodInfo

CELLS = [("cats", 1), ("dogs", 1), ("cats", 2), ("dogs", 2)]


def standing(name: str, values: list[int], info: MethodInfo = COOP) -> Standing:
    """Source and target accuracy are equal, so H is the value itself."""
    figures = {cell: (value, value) for cell, value in zip(CELLS, values, strict=False)}
    results = make_method(replace(info, name=name), make_pairs(figures, method=name))
    return compute_standing(results, TWO_BY_TWO, ("old", "new"), 4)


def ranks(*standings: Standing) -> list[tuple[str, str]]:
    return [(one.rank, one.standing.info.name) for one in rank_methods(standings)]


def test_places_go_by_h_and_skip_after_a_tie() -> None:
    assert ranks(
        standing("low", [20, 20, 20, 20]),
        standing("mixed", [54, 66, 53, 66]),  # against 'best': +6 -6 +7 -6
        standing("best", [60, 60, 60, 60]),
        standing("next", [50, 51, 50, 51]),
    ) == [("1=", "best"), ("1=", "mixed"), ("3", "next"), ("4", "low")]


def test_equal_figures_are_tied_and_go_by_name() -> None:
    assert ranks(standing("b", [50] * 4), standing("a", [50] * 4)) == [("1=", "a"), ("1=", "b")]


def test_a_small_but_steady_difference_is_no_tie() -> None:
    assert ranks(standing("a", [51, 61, 71, 81]), standing("b", [50, 60, 70, 80])) == [
        ("1", "a"),
        ("2", "b"),
    ]


def test_the_best_of_a_group_is_compared_so_that_ties_do_not_chain() -> None:
    first = standing("first", [60, 60, 60, 60])
    second = standing("second", [57, 61, 57, 61])  # tied with the first
    third = standing("third", [58, 58, 58, 58])  # tied with the second, not with the first
    names = [[one.info.name for one in group] for group in tied_groups([first, second, third])]
    assert names == [["first", "second"], ["third"]]


def test_a_method_that_learns_nothing_is_compared_at_every_seed() -> None:
    floor = standing("zeroshot", [50, 50], ZEROSHOT)
    assert ranks(floor, standing("a", [60, 61, 62, 63])) == [("1", "a"), ("2", "zeroshot")]


def test_one_cell_alone_shows_no_tie() -> None:
    expected = replace(TWO_BY_TWO, tasks=("cats",), seeds=(1,))
    standings = [
        compute_standing(
            make_method(replace(COOP, name=name), make_pairs({("cats", 1): (h, h)}, method=name)),
            expected,
            ("old", "new"),
            4,
        )
        for name, h in (("a", 50), ("b", 51))
    ]
    assert ranks(*standings) == [("1", "b"), ("2", "a")]


def test_the_order_of_the_methods_does_not_matter() -> None:
    standings = [standing(f"m{i}", [40 + i, 60 - i, 50, 45 + i]) for i in range(5)]
    assert ranks(*standings) == ranks(*reversed(standings))
