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


def test_the_rate_is_constant_within_an_epoch() -> None:
    rates = {learning_rate(Recipe(), 7, 100, step, 1000) for step in range(70, 80)}
    assert len(rates) == 1


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


def test_a_constant_rate_has_no_warm_up() -> None:
    recipe = Recipe(schedule="constant")
    assert {learning_rate(recipe, epoch, 10) for epoch in range(10)} == {2e-3}


@given(epochs=st.integers(1, 300), epoch=st.integers(0, 299))
def test_no_rate_is_negative_or_above_the_base(epochs: int, epoch: int) -> None:
    assert 0 <= learning_rate(Recipe(), epoch % epochs, epochs) <= 2e-3


@pytest.mark.parametrize(
    ("shots", "epochs"), [(1, 50), (2, 100), (4, 100), (7, 100), (8, 200), (16, 200), (99, 200)]
)
def test_coop_s_epochs_grow_with_the_shots(shots: int, epochs: int) -> None:
    assert Recipe().epochs_for(shots) == epochs


def test_a_single_number_of_epochs_holds_for_all_shots() -> None:
    assert {Recipe(epochs=20).epochs_for(shots) for shots in (1, 4, 16)} == {20}


def test_fewer_shots_than_the_first_step_of_the_rule_take_its_epochs() -> None:
    assert Recipe(epochs={4: 30, 8: 60}).epochs_for(1) == 30


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
