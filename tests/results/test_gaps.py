"""What a suite asks for and results lack."""

from __future__ import annotations

from dataclasses import replace

from made_results import (
    CELLS,
    COOP,
    TWO_BY_TWO,
    UPGRADE,
    ZEROSHOT,
    flat,
    make_method,
    make_pairs,
    make_row,
    make_suite,
    through_words,
)

from compatbench.results.gaps import find_disagreements, find_gaps
from compatbench.results.ranking import rank_methods
from compatbench.results.stored_method import StoredMethod

RETRAINING = replace(TWO_BY_TWO, retrained=True)


def with_retrained() -> StoredMethod:
    """Return CoOp's modules, and those that were trained on the target."""
    rows = make_pairs(dict.fromkeys(CELLS, (50, 62)))
    for task, seed in CELLS:
        rows.append(make_row(70, task=task, seed=seed, source="new", backbone="new"))
    return make_method(COOP, rows)


def test_retrained_rows_are_asked_for_and_are_no_upgrade() -> None:
    whole = with_retrained()
    assert find_gaps(make_suite(whole), RETRAINING).empty
    assert find_gaps(make_suite(through_words(flat(COOP, 50, 60))), RETRAINING).empty
    [row] = rank_methods(make_suite(whole), RETRAINING, [UPGRADE], 4).to_dict("records")
    assert row["state"] == "complete"
    fewer = make_suite(replace(whole, rows=whole.rows[:-1]))
    [gap] = find_gaps(fewer, RETRAINING).to_dict("records")
    assert (gap["task"], gap["seed"], gap["backbone"]) == ("dogs", 2, "new, retrained")
    # A suite that does not retrain does not ask for them.
    assert find_gaps(fewer, TWO_BY_TWO).empty


def test_a_failed_row_is_a_gap_with_its_reason_and_a_refused_module_is_none() -> None:
    rows = make_pairs({("cats", 1): (50, 62), ("dogs", 1): (50, 62), ("dogs", 2): (50, 62)})
    rows.append(make_row(None, seed=2, status="failed", reason="no memory"))
    where = {"seed": 2, "backbone": "new"}
    rows.append(make_row(None, **where, status="not transferable", reason="sizes"))
    [gap] = find_gaps(make_suite(make_method(COOP, rows)), TWO_BY_TWO).to_dict("records")
    assert (gap["kind"], gap["reason"], gap["backbone"]) == ("failed", "no memory", "old")


def test_a_method_that_learns_nothing_is_asked_for_once() -> None:
    rows = make_pairs({("cats", 1): (40, 60), ("dogs", 1): (40, 60)}, method="zeroshot")
    expected = replace(TWO_BY_TWO, shots=(4, 16))
    assert find_gaps(make_suite(make_method(ZEROSHOT, rows)), expected).empty


def test_zero_shot_that_differs_between_rows_is_a_disagreement() -> None:
    rows = make_pairs(dict.fromkeys(CELLS, (50, 62)))
    assert find_disagreements(make_suite(make_method(COOP, rows))) == []
    rows[1] = rows[1].model_copy(update={"zero_shot_correct": 61})
    assert find_disagreements(make_suite(make_method(COOP, rows))) == [("new", "cats")]
