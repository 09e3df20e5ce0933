"""The map between modules of other tasks equals its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from random_matrices import draw
from torch import Tensor

from compatbench.data.labels import Labels
from compatbench.errors import NotTransferable
from compatbench.method import Module
from compatbench.method.transfer import ModulePair, TransferData
from compatbench.transfers.module_ridge import ModuleRidge

COUNTS = (3, 4, 6)  # classes of three other tasks


def carry(module: Module, pairs: list[ModulePair], **config: Any) -> Module:
    transfer = ModuleRidge(ModuleRidge.Config(**config))
    labels = Labels(("a", "b", "c", "d", "e"), ("{}",), "{}")
    data = TransferData(transfer, modules=tuple(pairs))
    return transfer.carry(None, module, None, labels, data)  # type: ignore[arg-type]


def module_of(classes: int, seed: int, size: int = 7) -> Module:
    weight = draw(classes, size, seed=seed) + 1
    bias = draw(classes, 1, seed=seed + 50)[:, 0]
    return Module({"weight": weight, "bias": bias}, {"alpha": draw(1, 1, seed=seed).sum()})


def pairs_by(change: Any) -> list[ModulePair]:
    pairs = []
    for number, classes in enumerate(COUNTS):
        old = module_of(classes, number)
        pairs.append(ModulePair(old, change(old, number), classes))
    return pairs


def naive(x: Tensor, y: Tensor, vectors: Tensor, damping: float) -> Tensor:
    """Return the prediction of the damped least squares of centred vectors."""
    a = x - x.mean(0)
    b = y - y.mean(0)
    weight = (len(a) * damping * float((a * a).mean())) ** 0.5
    more = weight * torch.eye(a.shape[1])
    prior = weight * torch.eye(a.shape[1], b.shape[1])
    m = torch.linalg.lstsq(torch.cat([a, more]), torch.cat([b, prior])).solution
    return y.mean(0) + (vectors - x.mean(0)) @ m


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", [7, 5])
def test_class_vectors_and_biases_are_mapped_by_their_ridge_maps(size: int) -> None:
    turn = draw(7, size, seed=9) / 3

    def change(old: Module, number: int) -> Module:
        noise = draw(len(old["weight"]), size, seed=20 + number)
        weight = old["weight"] @ turn + 0.1 * noise
        return Module({"weight": weight, "bias": 2 * old["bias"] + 1}, {"alpha": old["alpha"] + 3})

    module = module_of(5, 30)
    pairs = pairs_by(change)
    found = carry(module, pairs, dampings=[0.3])
    for name in ("weight", "bias", "alpha"):
        vectors = [pair.source[name].reshape(-1, 7 if name == "weight" else 1) for pair in pairs]
        goals = [pair.target[name].reshape(-1, size if name == "weight" else 1) for pair in pairs]
        own = module[name].reshape(-1, 7 if name == "weight" else 1)
        expected = naive(torch.cat(vectors), torch.cat(goals), own, 0.3)
        assert torch.allclose(found[name].flatten(), expected.flatten())
    assert found.trained.keys() == module.trained.keys()
    assert found["weight"].shape == (5, size)
    assert found["bias"].shape == (5,)


@pytest.mark.usefixtures("float64")
def test_equal_models_leave_the_module_as_it_is() -> None:
    module = module_of(5, 30)
    found = carry(module, pairs_by(lambda old, _: old))
    for name, tensor in module.tensors.items():
        assert torch.allclose(found[name], tensor)


@pytest.mark.usefixtures("float64")
def test_a_variance_stays_positive() -> None:
    def module(*variances: float) -> Module:
        return Module({}, {"variance": torch.tensor(variances)})

    pairs = []
    for classes in COUNTS:
        old = module(1.0, 2.0, 2.5)
        pairs.append(ModulePair(old, module(0.1, 2.0, 3.0), classes))
        pairs.append(ModulePair(module(2.0, 1.0, 2.5), module(2.0, 0.1, 3.0), classes))
    found = carry(module(0.5, 2.5, 2.5), pairs, dampings=[1e-6])["variance"]
    # The map would give -0.85 for the first.
    assert torch.allclose(found, torch.tensor([0.1, 2.95, 3.0]), atol=1e-4)
    # A tensor with negative values on the target may have any.
    pairs.append(ModulePair(module(1.0, 1.0, 2.5), module(-0.9, 0.1, 3.0), 3))
    assert float(carry(module(0.5, 2.5, 2.5), pairs, dampings=[1e-6])["variance"].min()) < -0.5


@pytest.mark.usefixtures("float64")
def test_damping_is_chosen_with_one_task_left_out() -> None:
    def change(old: Module, number: int) -> Module:
        noise = draw(len(old["weight"]), 7, seed=20 + number)
        weight = old["weight"] @ draw(7, 7, seed=9) + 2 * noise
        return Module({"weight": weight, "bias": old["bias"]}, dict(old.stored))

    pairs = pairs_by(change)
    tasks = [(pair.source["weight"], pair.target["weight"]) for pair in pairs]
    errors = {}
    for damping in (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0):
        errors[damping] = 0.0
        for left_out in tasks:
            rest = [task for task in tasks if task is not left_out]
            x = torch.cat([old for old, _ in rest])
            y = torch.cat([new for _, new in rest])
            guess = naive(x, y, left_out[0], damping)
            errors[damping] += float((guess - left_out[1]).square().sum())
    best = min(errors, key=lambda damping: errors[damping])
    assert ModuleRidge().choose_damping(tasks) == best
    assert best not in (1e-4, 10.0)
    assert ModuleRidge().choose_damping(tasks[:1]) == 10.0  # no task can be left out


def test_modules_whose_vectors_do_not_match_are_refused() -> None:
    module = module_of(5, 30)
    with pytest.raises(NotTransferable, match="no modules of other tasks"):
        carry(module, [])
    cut = pairs_by(lambda old, _: Module({"weight": old["weight"][1:], "bias": old["bias"]}))
    with pytest.raises(NotTransferable, match="'weight' has other vectors on the two models"):
        carry(module, cut)
    with pytest.raises(NotTransferable, match="'weight' has vectors of another size"):
        carry(module_of(5, 30, size=8), pairs_by(lambda old, _: old))
