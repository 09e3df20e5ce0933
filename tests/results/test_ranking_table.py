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
from compatbench.results.bootstrap import measure_interval
from compatbench.results.ranking_table import Results

CELLS = [("cats", 1), ("dogs", 1), ("cats", 2), ("dogs", 2)]


def flat(info, source: int, target: int):
    figures = dict.fromkeys(CELLS, (source, target + 10))
    figures |= dict.fromkeys(CELLS[:1], (source, target))
    return make_method(info, make_pairs(figures, method=info.name))


@pytest.fixture
def results() -> Results:
    partial = flat(replace(COOP, name="partial", title="Partial"), 50, 50)
    suite = make_suite(
        *(flat(COOP, 60, 50), flat(PROBE, 80, 20), flat(ZEROSHOT, 40, 60)),
        *(replace(partial, rows=partial.rows[:-1]), through_words(flat(PROBE, 80, 60))),
    )
    return Results(suite, TWO_BY_TWO)


def test_a_ranking_has_the_figures_of_every_standing(results: Results) -> None:
    frame = results.ranking("old", "new")
    assert frame["method"].tolist() == ["coop", "zeroshot", "linear_probe", "partial"]
    for (_, row), one in zip(frame.iterrows(), results.ranked(("old", "new")), strict=True):
        standing = one.standing
        assert (row["rank"], row["title"], row["state"]) == (
            *(one.rank, standing.info.title, standing.state),
        )
        means = {side: standing.mean(side) for side in ("source", "target", "h")}
        for side, mean in means.items():
            assert (None if pd.isna(row[side]) else row[side]) == (mean and mean.value)
            assert (None if pd.isna(row[f"{side}_std"]) else row[f"{side}_std"]) == (
                mean and mean.std
            )
        interval = measure_interval(standing, "h")
        assert interval is None or (row["h_low"], row["h_high"]) == (interval.low, interval.high)
        assert (row["measured"], row["cells"]) == standing.coverage
    coop, zeroshot, _, partial = (row for _, row in frame.iterrows())
    assert (coop["gain"], coop["harmed"], coop["worst_task"]) == (-2.5, 1, "cats")
    assert (coop["parameters"], coop["fit_seconds"]) == (8192, pytest.approx(0.4))
    assert pd.isna(zeroshot["fit_seconds"])
    assert pd.isna(partial["h"])
    assert partial["rank"] == ""


def test_other_transfers_are_ranked_apart(results: Results) -> None:
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


def test_a_restriction_takes_means_over_a_part(results: Results) -> None:
    one_seed = results.restrict(tasks=["cats"], seeds=[1])
    coop = one_seed.ranking("old", "new").set_index("method").loc["coop"]
    assert (coop["cells"], coop["source"], coop["target"]) == (1, 60, 50)


def test_it_shows_itself_in_one_line(results: Results) -> None:
    assert "old → new" in repr(results)
    assert len(repr(results)) < 200


def test_figures_by_dataset_and_gaps(results: Results) -> None:
    frame = results.by_dataset("target", "old", "new")
    assert frame.loc["coop"].tolist() == [55, 60, 57.5]
    assert frame.loc["partial"].isna().tolist() == [False, True, True]
    [gap] = results.gaps().to_dict("records")
    assert (gap["method"], gap["kind"], gap["task"], gap["seed"], gap["backbone"]) == (
        *("partial", "missing", "dogs", 2, "new"),
    )
    assert len(results.frame) == 8 + 8 + 8 + 7 + 8
