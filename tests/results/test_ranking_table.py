"""The ranking as a frame: every figure is that of the standing, and a missing one is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic_results import (
    COOP,
    PROBE,
    TWO_BY_TWO,
    ZEROSHOT,
    make_method,
    make_pairs,
    make_suite,
    through_words,
)

from compatbench.errors import CompatbenchError
from compatbench.results.ranking_table import Results


def flat(info, source: int, target: int):
    """Dogs, and the second seed, have 10 more right on the target."""
    cells = {("cats", 1): (source, target)}
    cells |= dict.fromkeys((("dogs", 1), ("cats", 2), ("dogs", 2)), (source, target + 10))
    return make_method(info, make_pairs(cells, method=info.name))


@pytest.fixture
def results() -> Results:
    partial = flat(replace(COOP, name="partial", title="Partial"), 50, 50)
    suite = make_suite(
        *(flat(COOP, 60, 50), flat(PROBE, 80, 20), flat(ZEROSHOT, 40, 60)),
        *(replace(partial, rows=partial.rows[:-1]), through_words(flat(PROBE, 80, 60))),
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
