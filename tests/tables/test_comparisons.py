"""Shares that modules keep, paths of several models, and configs: frames computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_results import UPGRADE, ZEROSHOT, flat, make_suite
from made_up_suites import ablation_page, path_page, retained_page

from compatbench.results.ablation import compare_configs
from compatbench.results.ranking import rank_methods
from compatbench.results.retained import measure_retained
from compatbench.results.upgrade_paths import follow_path


def test_kept_share_is_a_ratio_of_means_and_only_of_a_certain_gain() -> None:
    page = retained_page()
    [coop] = measure_retained(page.results, page.expected, UPGRADE, 4).to_dict("records")
    # 62, 70, 64 and 68 right of 100 with the old module; 60 with zero-shot.
    assert coop["old"] == pytest.approx(6)
    assert coop["retrained"] == pytest.approx(16)
    # Two datasets are fewer than a verdict takes, so retraining is not shown to gain.
    assert np.isnan(coop["kept"])


def test_path_changes_are_differences_from_the_model_before() -> None:
    page = path_page()
    along = follow_path(page.results, page.expected, page.paths[0], 4)
    coop = along[along["method"] == "coop"].set_index("backbone")
    assert coop["accuracy"].tolist() == [66, 63, 63]
    assert coop["accuracy_change"].tolist()[1:] == [-3, 0]
    assert coop["accuracy_per_step"].tolist() == [-1.5] * 3
    # A cell is missing on the model in the middle, and so both of its steps.
    probe = along[along["method"] == "linear_probe"]
    assert probe["accuracy"].isna().tolist() == [False, True, False]
    assert probe["accuracy_per_step"].isna().all()


def test_configs_are_compared_with_the_method_that_they_configure() -> None:
    page = ablation_page()
    compared = compare_configs(page.results, page.expected, UPGRADE, 4, page.configs)
    assert compared["method"].tolist() == [
        "contcoop",
        "contcoop+no-kd",
        "contcoop+cross",
        "alone+config",
    ]
    rows = compared.set_index("method")
    assert rows.loc["contcoop+cross", "h"] == pytest.approx(-5)
    assert rows.loc["contcoop+cross", "diversity"] == pytest.approx(0.25)
    assert not rows.loc["contcoop+cross", "h_decides"]  # two datasets decide nothing
    # A config of a method without results has no differences.
    assert (rows.loc["alone+config", "base"], np.isnan(rows.loc["alone+config", "h"])) == ("", True)


def test_a_ranking_is_computed_once() -> None:
    results = make_suite(flat(ZEROSHOT, 40, 60))
    page = retained_page()
    expected = replace(page.expected, tasks=("cats", "dogs"))
    first = rank_methods(results, expected, [UPGRADE], 4)
    assert rank_methods(results, expected, (UPGRADE,), 4) is first
    assert first.loc[0, ["effect", "datasets"]].tolist() == ["cannot tell", 2]
