"""What a suite costs, counted."""

from __future__ import annotations

import pytest

from compatbench.backbone import load_backbone
from compatbench.data.cards import SuiteCard, suite_cards, task_cards
from compatbench.engine.costs import count_costs, measure_model, measure_rate
from compatbench.method.registry import builtin_methods

REGISTRY = builtin_methods()


@pytest.mark.parametrize("name", ["mini-clip", "mini-eva-clip"])
def test_a_model_s_sizes_are_those_of_the_loaded_model(name: str) -> None:
    size, backbone = measure_model(name), load_backbone(name)
    assert size is not None
    assert size.parameters == sum(p.numel() for p in backbone.model.parameters())
    assert size.embed_dim == backbone.embed_dim


def test_images_are_counted_once_for_each_backbone_split_and_view() -> None:
    values = suite_cards.read("smoke").model_dump() | {"tasks": ["mini-objects"], "shots": [2]}
    suite = SuiteCard.model_validate(values | {"variants": ["mini-objects-mono"], "seeds": [1, 2]})
    costs = count_costs(suite, REGISTRY, ["tip_adapter"])
    card, variant = task_cards.read("mini-objects"), task_cards.read("mini-objects-mono")
    tests = card.counts["test"] + variant.counts["test"]
    # Two seeds of two shots: under two views and plain, and two of each class to validate.
    draws = 2 * len(card.classes) * (2 * 3 + 2)
    assert costs.images == 2 * tests + draws
    assert costs.features_bytes == costs.images * 128 * 4
    assert costs.fit_flops == 0


def test_steps_through_the_text_tower_are_counted_with_the_suite_s_cap() -> None:
    suite = suite_cards.read("smoke")
    longer = SuiteCard.model_validate(
        suite.model_dump() | {"training": suite.training.model_dump() | {"max_steps": 40}}
    )
    short, long = (count_costs(one, REGISTRY, ["coop"]) for one in (suite, longer))
    assert short.counted_fits == long.counted_fits == 1
    assert long.fit_flops == pytest.approx(2 * short.fit_flops)


def test_retraining_encodes_and_fits_on_the_targets_too() -> None:
    suite = suite_cards.read("smoke")
    retrained = SuiteCard.model_validate(suite.model_dump() | {"retrained": True})
    once, twice = (count_costs(one, REGISTRY, ["coop"]) for one in (suite, retrained))
    assert twice.counted_fits == 2 * once.counted_fits
    [task] = suite.tasks
    tests = 2 * task_cards.read(task).counts["test"]
    assert twice.images - tests == 2 * (once.images - tests)


def test_the_real_suites_are_counted_without_data_or_weights() -> None:
    costs = count_costs(suite_cards.read("ood"), REGISTRY, ["coop"], seeds=[1])
    assert costs.images > 4 * (50_000 + 10_000 + 50_889 + 7_500 + 30_000)
    assert costs.memory_bytes > 4 * 2 * (149_000_000 + 427_000_000)
    assert costs.unknown == ()


def test_a_rate_is_measured() -> None:
    assert measure_rate("cpu", size=64, seconds=0.01) > 0
