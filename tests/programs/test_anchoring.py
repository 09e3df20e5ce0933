"""The analysis of the anchoring penalty finds the simulated effects, and nothing else."""

from __future__ import annotations

import anchoring
import numpy as np
import pandas as pd
import pytest

METHODS = ("coop", "gda", "maple", "taskres")
TASKS = tuple(f"t{i}" for i in range(8))
MODULES = pd.MultiIndex.from_product([METHODS, TASKS], names=["method", "task"])


def make_anchored(gained: float, lost: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return gains and zero-shot's accuracy on targets trained with every weight, and without.

    For each unit of weight, the penalty adds ``gained`` points to the gains of modules and takes
    ``lost`` points from zero-shot.
    """
    rng = np.random.default_rng(3)
    gains = {}
    accuracy = {}
    for weight in (0.0, *anchoring.WEIGHTS):
        for name in anchoring.name_targets(weight):
            gains[name] = rng.normal(size=len(MODULES)) + gained * weight
            accuracy[name] = 60 + rng.normal(size=len(TASKS)) - lost * weight
    return pd.DataFrame(gains, MODULES), pd.DataFrame(accuracy, [*TASKS])


def test_the_answer_names_a_weight_that_keeps_modules_and_is_free():
    gains, accuracy = make_anchored(gained=2, lost=0.5)
    prices = anchoring.price_weights(gains, accuracy)
    assert [price.weight for price in prices] == [*anchoring.WEIGHTS]
    without = [f"mini-eva-clip-anew-{seed}" for seed in (5, 6)]
    third = [f"{name}-anchored-3" for name in without]
    gained = gains[third].mean().mean() - gains[without].mean().mean()
    lost = accuracy[third].mean().mean() - accuracy[without].mean().mean()
    assert prices[2].gain.value == pytest.approx(gained)
    assert prices[2].zero_shot.value == pytest.approx(lost)
    assert [price.keeps for price in prices[1:]] == [True] * 3
    assert not prices[-1].is_free
    best = anchoring.best_price(prices)
    told = anchoring.answer(best, [], best.gain, best.gain)
    assert "it loses less than 2 points" in told
    assert "at weight 10" not in told


def test_levels_are_means_over_methods_and_both_seeds():
    gains, _ = make_anchored(gained=2, lost=0.5)
    columns = gains.to_numpy()
    assert anchoring.levels_of(gains, 0).value == pytest.approx(columns[:, :2].mean())
    assert anchoring.levels_of(gains, 10).value == pytest.approx(columns[:, -2:].mean())


def test_a_kind_of_methods_has_its_own_change():
    gains, _ = make_anchored(gained=0, lost=0)
    helped = anchoring.name_targets(3)
    gains.loc[["gda"], helped] += 30
    kinds = {"probes": ["gda"], "others": ["coop", "maple", "taskres"]}
    probes, others = anchoring.compare_kinds(gains, kinds, 3)
    assert probes["change"].value == pytest.approx(30, abs=1)
    assert probes["with_it"].value - probes["without"].value == pytest.approx(
        probes["change"].value
    )
    assert others["change"].low < 0 < others["change"].high


@pytest.mark.parametrize(
    ("inserts", "kind"),
    [
        (["text-input"], "prompts at the text input"),
        (["text-input", "text-layers"], "prompts and updates in the towers"),
        (["image-input"], "prompts and updates in the towers"),
        (["feature"], "features, caches and classifiers"),
        (["classifier"], "features, caches and classifiers"),
    ],
)
def test_the_kind_of_a_method_follows_its_card(inserts: list[str], kind: str):
    assert anchoring.kind_of(inserts) == kind


def test_the_answer_names_no_penalty_that_helps_no_module():
    prices = anchoring.price_weights(*make_anchored(gained=0, lost=1))
    best = anchoring.best_price(prices)
    assert best is None
    some = prices[0].gain
    assert "At no weight" in anchoring.answer(best, [], some, some)
