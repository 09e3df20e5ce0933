"""One and two steps of every optimiser against the formula, written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compatbench.method.optim import Recipe, build_optimizer

START = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
GRADIENTS = [
    torch.tensor([0.3, -0.1, 2.0], dtype=torch.float64),
    torch.tensor([-0.2, 0.4, 1.0], dtype=torch.float64),
]


def take_steps(recipe: Recipe, gradients: list[Tensor]) -> Tensor:
    parameter = START.clone().requires_grad_()
    optimizer = build_optimizer(recipe, [parameter])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def test_first_step_of_sgd() -> None:
    found = take_steps(Recipe(lr=0.1, momentum=0.9, weight_decay=0.01), GRADIENTS[:1])
    expected = START - 0.1 * (GRADIENTS[0] + 0.01 * START)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_second_step_of_sgd_carries_momentum_and_fresh_decay() -> None:
    found = take_steps(Recipe(lr=0.1, momentum=0.9, weight_decay=0.01), GRADIENTS)
    velocity = GRADIENTS[0] + 0.01 * START
    after_one = START - 0.1 * velocity
    velocity = 0.9 * velocity + (GRADIENTS[1] + 0.01 * after_one)
    torch.testing.assert_close(found, after_one - 0.1 * velocity, rtol=1e-14, atol=0)


def test_momentum_holds_the_gradients_not_the_rates() -> None:
    """A rate that changes between steps scales the whole velocity, as in PyTorch and Dassl."""
    parameter = START.clone().requires_grad_()
    optimizer = build_optimizer(Recipe(momentum=0.9, weight_decay=0), [parameter])
    for rate, gradient in zip((1e-5, 0.1), GRADIENTS, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = gradient.clone()
        optimizer.step()
    expected = START - 1e-5 * GRADIENTS[0] - 0.1 * (0.9 * GRADIENTS[0] + GRADIENTS[1])
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_two_steps_of_adam_with_its_own_kind_of_decay(optimizer: str) -> None:
    lr, eps, decay, first, second = 0.1, 1e-4, 0.2, 0.8, 0.95
    recipe = Recipe(
        optimizer=optimizer,  # type: ignore[arg-type]
        lr=lr,
        eps=eps,
        weight_decay=decay,
        betas=(first, second),
    )
    x, m, v = START.clone(), torch.zeros(3, dtype=torch.float64), torch.zeros(3).double()
    for t, gradient in enumerate(GRADIENTS, start=1):
        if optimizer == "adam":  # coupled: the decay is part of the gradient
            gradient = gradient + decay * x
        else:  # decoupled: the decay shrinks the parameter itself
            x = x - lr * decay * x
        m = first * m + (1 - first) * gradient
        v = second * v + (1 - second) * gradient**2
        x = x - lr * (m / (1 - first**t)) / ((v / (1 - second**t)).sqrt() + eps)
    torch.testing.assert_close(take_steps(recipe, GRADIENTS), x, rtol=1e-12, atol=0)
