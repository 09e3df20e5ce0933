"""Published accuracies: what the files hold."""

from __future__ import annotations

import pytest

from compatbench.data.cards import backbone_cards, suite_cards, task_cards
from compatbench.method.registry import builtin_methods
from compatbench.results.published import read_published


def test_published_accuracies_name_existing_cards_and_are_listed_once() -> None:
    found = read_published()
    assert {*found["method"]} <= {*builtin_methods().names()}
    assert {*found["test_set"]} <= {*task_cards.names()}
    assert {*found["backbone"]} <= {*backbone_cards.names()}
    assert found["accuracy"].between(0, 100, inclusive="neither").all()
    assert {*found["protocol"]} == {"all classes", "4 vectors", "cross-dataset", "own prompts"}
    place = ["method", "test_set", "backbone", "shots", "protocol", "metric", "source"]
    assert not found.duplicated(place).any()
    assert found["source"].str.len().gt(3).all()
    assert (found["shots"].isna() == (found["method"] == "zeroshot")).all()


def test_averages_of_published_accuracies_equal_those_in_the_sources() -> None:
    found = read_published().query("protocol == 'all classes' and shots == 16")
    of = found[found["test_set"].isin(suite_cards.read("paper").tasks)]
    means = of.groupby(["source", "method"])["accuracy"].mean()
    printed = {"linear_probe": 78.79, "coop": 79.89, "cocoop": 74.90, "maple": 81.79}
    for method, average in {**printed, "promptsrc": 82.87}.items():
        mean = means["arXiv:2307.06948, Table 13", method]
        assert mean == pytest.approx(average, abs=0.006)
    assert means["HALoRA, Table 5", "clip_lora"] == pytest.approx(83.0, abs=0.05)
    # Sources that disagree are both kept.
    both = read_published().query("method == 'maple' and test_set == 'eurosat' and shots == 4")
    assert sorted(both["accuracy"]) == [54.87, 84.50]
