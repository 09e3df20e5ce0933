"""Steps of every optimiser, the learning rate and the epochs, against formulas written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.method import FewShotData, Labels, MethodCard, Module
from compatbench.method.trained import Batch, Recipe, TrainedMethod, learning_rate

START = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
GRADIENTS = [
    torch.tensor([0.3, -0.1, 2.0], dtype=torch.float64),
    torch.tensor([-0.2, 0.4, 1.0], dtype=torch.float64),
]


class Pulled(TrainedMethod):
    """A tensor that is pulled by one gradient in the first epoch and by another in the second."""

    card = MethodCard("pulled", "Pulled", "none", "classifier", "goes where it is told")

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        self.gradients = iter(GRADIENTS)
        return Module({"x": START.clone()})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Any:
        return module["x"]

    def loss(self, classifier: Tensor, batch: Batch) -> Tensor:
        return (classifier * next(self.gradients)).sum()


def take_steps(data: FewShotData, first_rate: float = 0.1, **recipe: object) -> Tensor:
    """Two steps, of which only the first may be of another rate than 0.1."""
    values = {"lr": 0.1, "warmup_lr": first_rate, "epochs": 2, **recipe}
    method = Pulled(Pulled.Config(recipe=Recipe.model_validate(values), max_steps=None))
    return method.fit(None, data, torch.Generator())["x"]  # type: ignore[arg-type]


@pytest.mark.parametrize("first_rate", [0.1, 1e-5])
def test_sgd_carries_momentum_of_gradients_not_of_rates_and_fresh_decay(
    data: FewShotData, first_rate: float
) -> None:
    """A rate that changes between steps scales the whole velocity, as in PyTorch and Dassl."""
    velocity = GRADIENTS[0] + 0.01 * START
    after_one = START - first_rate * velocity
    velocity = 0.9 * velocity + (GRADIENTS[1] + 0.01 * after_one)
    found = take_steps(data, first_rate, momentum=0.9, weight_decay=0.01)
    torch.testing.assert_close(found, after_one - 0.1 * velocity, rtol=1e-14, atol=0)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_two_steps_of_adam_with_its_own_kind_of_decay(data: FewShotData, optimizer: str) -> None:
    lr, eps, decay, first, second = 0.1, 1e-4, 0.2, 0.8, 0.95
    settings = {"optimizer": optimizer, "eps": eps, "weight_decay": decay}
    found = take_steps(data, betas=(first, second), **settings)
    x, m, v = START.clone(), torch.zeros(3).double(), torch.zeros(3).double()
    for t, gradient in enumerate(GRADIENTS, start=1):
        if optimizer == "adam":  # coupled: the decay is part of the gradient
            gradient = gradient + decay * x
        else:  # decoupled: the decay shrinks the parameter itself
            x = x - lr * decay * x
        m = first * m + (1 - first) * gradient
        v = second * v + (1 - second) * gradient**2
        x = x - lr * (m / (1 - first**t)) / ((v / (1 - second**t)).sqrt() + eps)
    torch.testing.assert_close(found, x, rtol=1e-12, atol=0)


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


@given(epochs=st.integers(1, 300), epoch=st.integers(0, 299))
def test_no_rate_is_negative_or_above_the_base(epochs: int, epoch: int) -> None:
    assert 0 <= learning_rate(Recipe(), epoch % epochs, epochs) <= 2e-3


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
