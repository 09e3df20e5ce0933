"""The learning rate at every step, and the number of epochs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from compatbench.method.optim import Recipe, learning_rate


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 1e-5), (1, 2e-3), (2, 1.9995e-3), (98, 4.44e-6), (99, 1.97e-6)]
)
def test_coop_s_schedule_has_dassl_s_figures(epoch: int, rate: float) -> None:
    assert learning_rate(Recipe(), epoch, epochs=100) == pytest.approx(rate, rel=2e-3)


def test_the_cosine_starts_after_warm_up_and_never_reaches_zero() -> None:
    rates = [learning_rate(Recipe(lr=1.0), epoch, epochs=50) for epoch in range(50)]
    for j in range(1, 50):
        assert rates[j] == pytest.approx((1 + math.cos(math.pi * (j - 1) / 50)) / 2, abs=1e-15)
    assert rates[-1] == pytest.approx((1 + math.cos(math.pi * 48 / 50)) / 2)
    assert rates[-1] > 0


def test_warm_up_can_last_longer_or_be_left_out() -> None:
    longer = Recipe(warmup_epochs=3, warmup_lr=1e-4)
    assert [learning_rate(longer, j, 10) for j in range(4)] == [1e-4, 1e-4, 1e-4, 2e-3]
    assert learning_rate(Recipe(warmup_epochs=0), 0, 10) == 2e-3


def test_the_step_cosine_falls_at_every_step_from_the_full_rate() -> None:
    recipe = Recipe(lr=1e-3, schedule="cosine-step")
    rates = [learning_rate(recipe, step // 4, 20, step, 80) for step in range(80)]
    assert rates[0] == 1e-3
    assert rates[40] == pytest.approx(5e-4)
    assert rates[79] == pytest.approx(1e-3 * (1 + math.cos(math.pi * 79 / 80)) / 2)
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == 80


@given(epochs=st.integers(1, 300), epoch=st.integers(0, 299))
def test_no_rate_is_negative_or_above_the_base(epochs: int, epoch: int) -> None:
    assert 0 <= learning_rate(Recipe(), epoch % epochs, epochs) <= 2e-3


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0},
        {"lr": -1},
        {"momentum": 1},
        {"epochs": 0},
        {"batch_size": 0},
        {"optimizer": "lion"},
        {"learning_rate": 1},
        {"weight_decay": -1},
    ],
)
def test_settings_without_meaning_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(settings)
