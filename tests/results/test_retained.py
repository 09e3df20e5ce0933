"""What the old module keeps of what retraining would give, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_results import (
    COOP,
    TWO_BY_TWO,
    ZERO_SHOT,
    make_method,
    make_page,
    make_pairs,
    make_row,
    through_words,
)

from compatbench.results.gaps import find_gaps
from compatbench.results.retained import Retained, compute_retained
from compatbench.results.store import MethodResults

UPGRADE = ("old", "new")
EXPECTED = replace(TWO_BY_TWO, retrained=True)
CELLS = [("cats", 1), ("dogs", 1), ("cats", 2), ("dogs", 2)]
# Of 100 images, on a target whose zero-shot has 60 right: attached, and retrained there.
ATTACHED = dict(zip(CELLS, (62, 70, 64, 68), strict=True))
RETRAINED = dict(zip(CELLS, (64, 88, 68, 84), strict=True))


def with_retrained(attached: dict, retrained: dict) -> MethodResults:
    rows = make_pairs({cell: (50, correct) for cell, correct in attached.items()})
    rows += [
        make_row(correct, task=task, seed=seed, source="new", backbone="new")
        for (task, seed), correct in retrained.items()
    ]
    return make_method(COOP, rows)


def retained_of(attached: dict, retrained: dict) -> Retained:
    return compute_retained(with_retrained(attached, retrained), EXPECTED, UPGRADE, 4)


def test_the_share_is_the_ratio_of_two_mean_gains() -> None:
    found = retained_of(ATTACHED, RETRAINED)
    assert found.attached is not None
    assert found.retrained is not None
    assert found.attached.value == pytest.approx(6)  # 2, 10, 4, 8
    assert found.retrained.value == pytest.approx(16)  # 4, 28, 8, 24
    assert found.kept is not None
    assert found.kept.value == pytest.approx(37.5)  # not the mean of 50 % and 34.6 %
    # Two datasets: the resamples are cats alone, dogs alone, and both.
    assert found.kept.low == pytest.approx(100 * 9 / 26)
    assert found.kept.high == pytest.approx(100 * 3 / 6)


@pytest.mark.parametrize("backbone_of_missing", ["attached", "retrained"])
def test_a_missing_cell_leaves_no_share(backbone_of_missing: str) -> None:
    fewer = {cell: ATTACHED[cell] for cell in CELLS[:-1]}
    if backbone_of_missing == "attached":
        found = retained_of(fewer, RETRAINED)
        assert found.attached is None
        assert found.retrained is not None
    else:
        found = retained_of(ATTACHED, {cell: RETRAINED[cell] for cell in CELLS[:-1]})
        assert found.attached is not None
        assert found.retrained is None
    assert found.kept is None


@pytest.mark.parametrize("right", [(60, 60), (50, 90), (61, 59), (40, 40)])
def test_there_is_no_share_of_a_gain_that_is_not_clear(right: tuple[int, int]) -> None:
    retrained = {(task, seed): right[task == "dogs"] for task, seed in CELLS}
    assert retained_of(ATTACHED, retrained).kept is None


counts = st.dictionaries(
    st.sampled_from(CELLS), st.integers(0, 100), min_size=len(CELLS), max_size=len(CELLS)
)
gaining = st.dictionaries(
    st.sampled_from(CELLS),
    st.integers(ZERO_SHOT["new"] + 1, 100),
    min_size=len(CELLS),
    max_size=len(CELLS),
)


@given(counts, gaining)
def test_the_share_times_the_retrained_gain_is_the_old_gain(attached: dict, right: dict) -> None:
    found = retained_of(attached, right)
    assert found.attached is not None
    assert found.retrained is not None
    assert found.kept is not None
    assert found.kept.value * found.retrained.value / 100 == pytest.approx(found.attached.value)
    assert found.kept.low <= found.kept.value + 1e-9
    assert found.kept.value <= found.kept.high + 1e-9


def test_retrained_rows_are_asked_for_and_are_no_upgrade() -> None:
    whole = with_retrained(ATTACHED, RETRAINED)
    page = make_page(whole, expected=EXPECTED)
    assert find_gaps(page.results, EXPECTED) == []
    [ranked] = page.ranks(UPGRADE, 4)
    assert ranked.standing.state == "complete"
    assert page.expected.upgrades == (UPGRADE,)
    fewer = replace(whole, rows=whole.rows[:-1])
    [gap] = find_gaps(make_page(fewer).results, EXPECTED)
    assert gap.places == (("dogs", "dogs", 4, 2, "new, retrained"),)
    words = through_words(make_method(COOP, make_pairs(dict.fromkeys(CELLS, (50, 60)))))
    assert find_gaps(make_page(words).results, EXPECTED) == []
    # A suite that does not retrain does not ask for them.
    assert find_gaps(make_page(fewer).results, TWO_BY_TWO) == []
