"""The ranking as a frame: every figure is that of the standing, and a missing one is missing."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
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


def test_a_ranking_has_the_figures_of_every_method(results: Results) -> None:
    assert repr(results).endswith("2 tasks; old → new>")
    frame = results.ranking("old", "new")
    assert frame["method"].tolist() == ["coop", "zeroshot", "linear_probe", "partial"]
    assert frame["rank"].tolist() == [1, 2, 2, pd.NA]  # other transfers are ranked apart
    assert frame["tied"].tolist() == [False, True, True, False]
    coop, zeroshot, _, partial = (row for _, row in frame.iterrows())
    assert (coop["rank"], coop["title"], coop["state"]) == (1, "CoOp", "complete")
    assert (coop["source"], coop["target"], coop["gain"]) == (60, 57.5, -2.5)
    assert coop["target_std"] == pytest.approx(5 / 2**0.5)  # seeds: 55 and 60
    assert coop["h_low"] < coop["h"] < coop["h_high"]
    assert (coop["harmed"], coop["worst_task"], coop["measured"]) == (1, "cats", 4)
    assert (coop["parameters"], coop["fit_seconds"]) == (8192, pytest.approx(0.4))
    assert pd.isna(zeroshot[["fit_seconds", "h_std"]]).all()
    assert pd.isna(partial[["h", "h_low", "harmed"]]).all()
    assert (partial["state"], partial["measured"]) == ("incomplete", 3)
    assert pd.isna(partial["rank"])
    frame = results.ranking("old", "new", transfer="words")
    assert frame[["method", "title", "transfer"]].to_numpy().tolist() == [
        ["linear_probe", "Linear probe", "words"]
    ]


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
