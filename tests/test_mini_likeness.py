"""The comparison of the mini pair with the real one, on results whose answers are known."""

from __future__ import annotations

import pandas as pd
import pytest

from compatbench.pages.markdown import fill_section
from compatbench.tasks.mini.build import likeness


@pytest.mark.slow
def test_the_page_shows_what_the_committed_results_give() -> None:
    page = likeness.PAGE.read_text(encoding="utf-8")
    assert fill_section(page, "likeness", likeness.likeness()) == page


def rows(accuracies: dict[str, list[float]], shots: int = 16) -> pd.DataFrame:
    """One task; a list holds a method's accuracy for seeds 1, 2, ..."""
    return pd.DataFrame(
        [
            {"method": name, "task": "t", "seed": seed, "shots": shots, "accuracy": accuracy}
            for name, values in accuracies.items()
            for seed, accuracy in enumerate(values, start=1)
        ]
    )


def test_ranks_that_agree_give_one_and_ranks_that_disagree_minus_one() -> None:
    ordered = {name: [figure] for name, figure in likeness.PUBLISHED.items()}
    same = likeness.rank_agreement(rows(ordered))
    assert same["it shows"] == f"1.00 over {len(ordered) - 1} methods"
    assert same["holds"] == "yes"
    turned = {name: [100 - figure] for name, figure in likeness.PUBLISHED.items()}
    assert likeness.rank_agreement(rows(turned))["it shows"].startswith("-1.00")


@pytest.mark.parametrize(
    ("coop", "probe", "holds"), [(56, 60, "yes"), (55.9, 60, "**no**"), (49, 48, "**no**")]
)
def test_prompts_must_gain_six_tenths_of_the_probe(coop: float, probe: float, holds: str) -> None:
    source = rows({"zeroshot": [50], "coop": [coop], "linear_probe": [probe]})
    assert likeness.prompts_and_probe(source)["holds"] == holds


def test_the_spread_is_that_of_the_means_over_tasks() -> None:
    source = rows({"zeroshot": [50], "coop": [60, 62], "kgcoop": [60, 61]})
    found = likeness.spread_over_seeds(source)
    assert found["it shows"] == "median 1.06, largest 1.41 (coop)"
    assert found["holds"] == "yes"


def test_a_method_that_falls_with_more_shots_is_named() -> None:
    table = pd.concat(
        [rows({"coop": [50], "kgcoop": [50]}, 1), rows({"coop": [55], "kgcoop": [49]}, 16)]
    )
    found = likeness.monotony(likeness.shots_curve(table))
    assert "not monotone: kgcoop" in found["it shows"]
    assert found["holds"] == "**no**"
