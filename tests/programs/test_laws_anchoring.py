"""The price of the anchoring penalty: its analysis finds what was put in, and nothing else."""

from __future__ import annotations

import laws_anchoring
import numpy as np
import pandas as pd
import pytest

METHODS = ("coop", "gda", "maple", "taskres")
TASKS = tuple(f"t{i}" for i in range(8))
MODULES = pd.MultiIndex.from_product([METHODS, TASKS], names=["method", "task"])


def make_anchored(gained: float, lost: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Targets whose penalty gains modules and costs zero-shot so much for each unit of weight."""
    rng, gains, accuracy = np.random.default_rng(3), {}, {}
    for weight in (0.0, *laws_anchoring.WEIGHTS):
        for name in laws_anchoring.name_targets(weight):
            gains[name] = rng.normal(size=len(MODULES)) + gained * weight
            accuracy[name] = 60 + rng.normal(size=len(TASKS)) - lost * weight
    return pd.DataFrame(gains, MODULES), pd.DataFrame(accuracy, [*TASKS])


def test_a_weight_is_named_that_keeps_modules_and_is_free():
    gains, accuracy = make_anchored(gained=2, lost=0.5)
    prices = laws_anchoring.price_weights(gains, accuracy)
    assert [price.weight for price in prices] == [*laws_anchoring.WEIGHTS]
    without = [f"mini-eva-clip-anew-{seed}" for seed in (5, 6)]
    third = [f"{name}-anchored-3" for name in without]
    gained, lost = (table[third].mean() for table in (gains, accuracy))
    assert prices[2].gain.value == pytest.approx(gained.mean() - gains[without].mean().mean())
    lost = lost.mean() - accuracy[without].mean().mean()
    assert prices[2].zero_shot.value == pytest.approx(lost)
    assert [price.keeps for price in prices[1:]] == [True] * 3
    assert not prices[-1].is_free
    assert "less than 2 points are lost" in laws_anchoring.answer(prices)
    assert "at weight 10" not in laws_anchoring.answer(prices)


def test_levels_are_means_over_both_seeds():
    gains, _ = make_anchored(gained=2, lost=0.5)
    inherited = gains.assign(**{"mini-eva-clip-5": 1.0, "mini-eva-clip-6": 1.0})
    levels = laws_anchoring.mean_gains(inherited)
    columns = gains.to_numpy()
    assert levels["without"] == pytest.approx(columns[:, :2].mean())
    assert levels["10"] == pytest.approx(columns[:, -2:].mean())
    assert levels["inherited"] == 1


def test_a_penalty_that_helps_no_module_is_not_named():
    prices = laws_anchoring.price_weights(*make_anchored(gained=0, lost=1))
    assert "At no weight" in laws_anchoring.answer(prices)
