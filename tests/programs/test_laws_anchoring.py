"""The analysis of the anchoring penalty finds the simulated effects, and nothing else."""

from __future__ import annotations

import laws_anchoring
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
    for weight in (0.0, *laws_anchoring.WEIGHTS):
        for name in laws_anchoring.name_targets(weight):
            gains[name] = rng.normal(size=len(MODULES)) + gained * weight
            accuracy[name] = 60 + rng.normal(size=len(TASKS)) - lost * weight
    return pd.DataFrame(gains, MODULES), pd.DataFrame(accuracy, [*TASKS])


def test_the_answer_names_a_weight_that_keeps_modules_and_is_free():
    gains, accuracy = make_anchored(gained=2, lost=0.5)
    prices = laws_anchoring.price_weights(gains, accuracy)
    assert [price.weight for price in prices] == [*laws_anchoring.WEIGHTS]
    without = [f"mini-eva-clip-anew-{seed}" for seed in (5, 6)]
    third = [f"{name}-anchored-3" for name in without]
    gained = gains[third].mean().mean() - gains[without].mean().mean()
    lost = accuracy[third].mean().mean() - accuracy[without].mean().mean()
    assert prices[2].gain.value == pytest.approx(gained)
    assert prices[2].zero_shot.value == pytest.approx(lost)
    assert [price.keeps for price in prices[1:]] == [True] * 3
    assert not prices[-1].is_free
    assert "less than 2 points are lost" in laws_anchoring.answer(prices)
    assert "at weight 10" not in laws_anchoring.answer(prices)


def test_mean_gains_are_over_both_seeds():
    gains, _ = make_anchored(gained=2, lost=0.5)
    inherited = gains.assign(**{"mini-eva-clip-5": 1.0, "mini-eva-clip-6": 1.0})
    levels = laws_anchoring.mean_gains(inherited)
    columns = gains.to_numpy()
    assert levels["without"] == pytest.approx(columns[:, :2].mean())
    assert levels["10"] == pytest.approx(columns[:, -2:].mean())
    assert levels["inherited"] == 1


def test_the_answer_names_no_penalty_that_helps_no_module():
    prices = laws_anchoring.price_weights(*make_anchored(gained=0, lost=1))
    assert "At no weight" in laws_anchoring.answer(prices)
