"""The comparison of the mini pair with the real one, on results whose answers are known."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from compatbench.tables.markdown import fill_section
from compatbench.tasks.mini.build import likeness


@pytest.mark.slow
def test_the_page_and_the_card_show_what_the_committed_results_give() -> None:
    facts, tables = likeness.likeness()
    page, card = (path.read_text(encoding="utf-8") for path in (likeness.PAGE, likeness.CARD))
    assert fill_section(page, "likeness", tables) == page
    assert likeness.fill_card(card, facts) == card


def test_the_line_of_the_card_names_what_holds_and_what_does_not() -> None:
    facts = [
        likeness.fact(name, "", "", "", holds)
        for name, holds in (("a", True), ("b", False), ("c", True))
    ]
    card = 'name: mini\nlikeness: ""\ntasks: []\n'
    filled = yaml.safe_load(likeness.fill_card(card, facts))
    assert filled["likeness"] == (
        "Of 3 properties of real upgrades, 2 hold here (a; c). These do not: b."
    )
    filled = yaml.safe_load(likeness.fill_card(card, facts[1:2]))
    assert filled["likeness"] == "Of 1 properties of real upgrades, 0 hold here. These do not: b."


def rows(accuracies: dict[str, list[float]], shots: int = 16) -> pd.DataFrame:
    """One task; a list holds a method's accuracy for seeds 1, 2, ..."""
    return pd.DataFrame(
        [
            {"method": name, "task": "t", "seed": seed, "shots": shots, "accuracy": accuracy}
            for name, values in accuracies.items()
            for seed, accuracy in enumerate(values, start=1)
        ]
    )


@pytest.mark.slow
def test_ranks_that_agree_give_one_and_few_methods_decide_nothing() -> None:
    """24 methods of 6 tasks and 4 datasets, on all of which they stand in one order."""
    names = [f"m{i:02}" for i in range(24)]
    published = pd.DataFrame({d: range(24) for d in "wxyz"}, index=names, dtype=float)
    source = pd.concat(
        [rows({n: [50.0 + i] for i, n in enumerate(names)}).assign(task=t) for t in "abcdef"]
    )
    same = likeness.rank_agreement(source, published)
    assert same["it shows"].startswith("1.00 (1.00 to 1.00) over 24 methods")
    assert same["holds"] == "yes"
    few = likeness.rank_agreement(source[source.method < "m19"], published)
    assert few["it shows"].startswith("1.00 (1.00 to 1.00) over 19 methods")
    assert few["holds"] == "**no**"
    turned = likeness.rank_agreement(source.assign(accuracy=-source.accuracy), published)
    assert turned["it shows"].startswith("-1.00")


def test_one_table_of_published_figures_has_every_method_on_all_eleven_datasets() -> None:
    table = likeness.published_table()
    assert table.shape[1] == likeness.DATASETS
    assert {"coop", "cocoop", "maple", "clip_lora", "gda"} <= {*table.index}
    assert "taskres" not in table.index  # its table has no ImageNet
    # MaPLe's average is that of its own rows.
    assert table.loc["maple"].mean() == pytest.approx(81.8, abs=0.05)
    assert "share 2 methods, too few for ranks" in likeness.ceiling()


@pytest.mark.parametrize(
    ("coop", "probe", "shares"), [(57.5, 60, "yes"), (57.4, 60, "**no**"), (49, 48, "**no**")]
)
def test_prompts_must_gain_three_quarters_of_the_probe(
    coop: float, probe: float, shares: str
) -> None:
    source = rows({"zeroshot": [50], "coop": [coop], "linear_probe": [probe]})
    assert likeness.prompts_and_probe(source)["holds"] == shares
    assert likeness.probe_gain(source)["holds"] == ("yes" if probe >= 58 else "**no**")


def test_a_method_below_zero_shot_by_more_than_chance_is_named() -> None:
    figures = {"zeroshot": 50.0, "zeroshot_ensemble": 40.0, "coop": 45.0, "plot": 49.0}
    tasks = [rows({n: [v] for n, v in figures.items()}).assign(task=t) for t in "abcdef"]
    table = pd.concat(tasks)
    table.loc[(table.method == "plot") & (table.task == "a"), "accuracy"] = 54.0
    found = likeness.below_zero_shot(table)
    assert (found["it shows"], found["holds"]) == ("coop", "**no**")


def test_the_spread_is_that_of_the_means_over_tasks() -> None:
    source = rows({"zeroshot": [50], "coop": [60, 62], "kgcoop": [60, 61]})
    found = likeness.spread_over_seeds(source)
    assert found["it shows"] == "median 1.06, largest 1.41 (coop)"
    assert found["holds"] == "yes"


@pytest.mark.parametrize(("kgcoop", "holds"), [(49, "yes"), (44, "**no**")])
def test_the_mean_of_all_methods_must_rise_with_the_shots(kgcoop: float, holds: str) -> None:
    table = pd.concat(
        [rows({"coop": [50], "kgcoop": [50]}, 1), rows({"coop": [55], "kgcoop": [kgcoop]}, 16)]
    )
    found = likeness.monotony(likeness.shots_curve(table))
    assert "single ones fall: kgcoop" in found["it shows"]
    assert found["holds"] == holds
