"""The learning rate and the settings of a recipe."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from compatbench.method.trained import Recipe, learning_rate


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 1e-5), (1, 2e-3), (2, 1.9995e-3), (98, 4.44e-6), (99, 1.97e-6)]
)
def test_coop_s_schedule_has_dassl_s_figures(epoch: int, rate: float) -> None:
    assert learning_rate(Recipe(), epoch, epochs=100) == pytest.approx(rate, rel=2e-3)


@pytest.mark.parametrize("warm", [0, 1, 3])
def test_the_cosine_starts_after_warm_up_and_never_reaches_zero(warm: int) -> None:
    recipe = Recipe(lr=1.0, warmup_epochs=warm, warmup_lr=1e-4)
    rates = [learning_rate(recipe, epoch, epochs=50) for epoch in range(50)]
    cosine = [(1 + math.cos(math.pi * (j - warm) / 50)) / 2 for j in range(warm, 50)]
    assert rates == pytest.approx([1e-4] * warm + cosine, abs=1e-15)
    assert rates[-1] > 0


def test_the_step_cosine_falls_at_every_step_from_the_full_rate() -> None:
    recipe = Recipe(lr=1e-3, schedule="cosine-step")
    rates = [learning_rate(recipe, step // 4, 20, step, 80) for step in range(80)]
    expected = [1e-3 * (1 + math.cos(math.pi * step / 80)) / 2 for step in range(80)]
    assert rates == pytest.approx(expected)
    assert rates[0] == 1e-3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("lr", 0), ("lr", -1), ("momentum", 1), ("epochs", 0), ("batch_size", 0)),
        *(("optimizer", "lion"), ("learning_rate", 1), ("weight_decay", -1)),
    ],
)
def test_settings_without_meaning_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate({name: value})
