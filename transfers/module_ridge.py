"""A ridge map from old to new module parameters, learned from the modules of other tasks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.backbone.joint_maps import DAMPINGS, find_ridge
from compatbench.errors import NotTransferable
from compatbench.method import Method, MethodCard, MethodConfig, Module
from compatbench.method.transfer import ModulePair, Transfer, TransferCard, TransferData

# Vectors of one tensor on the source and the target, ``[n, d_s]`` and ``[n, d_t]``.
Vectors = tuple[Tensor, Tensor]


class ModuleRidge(Transfer):
    """θ_t = θ̄_t + (θ_s − θ̄_s) M for each tensor, with M a ridge map shrunk towards the identity.

    M minimises ‖X M − Y‖² / n + λ v ‖M − I‖². X and Y are the vectors of a tensor in the modules
    of the suite's other tasks, fitted on the source and on the target, less their means θ̄. v is
    the mean square of X, so that λ has no unit. The vectors of a tensor run along its last axis:
    the weights of a class, or a token of a prompt. If the last axis counts classes, every number
    is a vector of its own. λ is the one of ``dampings`` that is best with one task left out. With
    λ → ∞ only the mean moves. With a single other task, λ is the largest. A tensor that is positive
    in all modules on the target, such as a variance, stays positive. Neither images nor labels of
    the module's own task are used.

    This is a baseline of this project, without a paper.
    """

    card = TransferCard(
        name="module-ridge",
        title="Module ridge",
        paper="",
        access={"modules"},
        summary="A map of module parameters that is learned from the modules of other tasks.",
    )

    class Config(MethodConfig):
        dampings: tuple[float, ...] = Field(DAMPINGS, min_length=1)

    def serves(self, method: MethodCard) -> bool:
        """Return True if the method learns, so that its modules differ between backbones."""
        return super().serves(method) and method.learns

    def carry(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Module:
        if not data.modules:
            raise NotTransferable("there are no modules of other tasks to learn a map from")
        mapped = {}
        for name, tensor in module.tensors.items():
            mapped[name] = tensor
            if tensor.is_floating_point():
                mapped[name] = self.map_tensor(name, tensor, len(labels), data.modules)
        trained = {name: mapped[name] for name in module.trained}
        stored = {name: mapped[name] for name in module.stored}
        return Module(trained, stored)

    def map_tensor(
        self, name: str, tensor: Tensor, classes: int, pairs: Sequence[ModulePair]
    ) -> Tensor:
        """Return a tensor of the module as its map predicts it on the target."""
        by_number = counts_classes(name, tensor, classes, pairs)
        tasks = []
        for pair in pairs:
            old = pair.source.tensors.get(name)
            new = pair.target.tensors.get(name)
            if old is None or new is None or old.shape[:-1] != new.shape[:-1]:
                raise NotTransferable(f"'{name}' has other vectors on the two models")
            x = as_vectors(old, by_number)
            y = as_vectors(new, by_number)
            if len(x) != len(y):
                raise NotTransferable(f"'{name}' has other vectors on the two models")
            tasks.append((x, y))
        vectors = as_vectors(tensor, by_number)
        if any(x.shape[1] != vectors.shape[1] for x, _ in tasks):
            raise NotTransferable(f"'{name}' has vectors of another size in other tasks")
        found = keep_positive(predict(vectors, tasks, self.choose_damping(tasks)), tasks)
        shape = tensor.shape if by_number else (*tensor.shape[:-1], found.shape[1])
        return found.reshape(shape).to(tensor)

    def choose_damping(self, tasks: Sequence[Vectors]) -> float:
        """Return the λ whose maps are best, each on the task that it was not fitted on."""
        if len(tasks) == 1:
            return max(self.config.dampings)
        errors = []
        for damping in self.config.dampings:
            total = 0.0
            for number, (x, y) in enumerate(tasks):
                rest = [*tasks[:number], *tasks[number + 1 :]]
                total += float((predict(x, rest, damping) - y).square().sum())
            errors.append(total)
        return self.config.dampings[errors.index(min(errors))]


def counts_classes(name: str, tensor: Tensor, classes: int, pairs: Sequence[ModulePair]) -> bool:
    """Return True if a tensor's last axis counts classes, or if it is one number."""
    if tensor.ndim == 0:
        return True
    lengths = [tensor.shape[-1] == classes]
    for pair in pairs:
        known = pair.source.tensors.get(name)
        lengths.append(known is not None and known.shape[-1:] == (pair.classes,))
    return all(lengths)


def as_vectors(tensor: Tensor, by_number: bool) -> Tensor:
    """Return the vectors along a tensor's last axis, or its numbers, ``[n, d]`` in float64."""
    vectors = tensor.double()
    return vectors.reshape(-1, 1) if by_number else vectors.reshape(-1, tensor.shape[-1])


def keep_positive(found: Tensor, tasks: Sequence[Vectors]) -> Tensor:
    """Return predictions that are positive if all known values on the target are.

    Others become the smallest known value: a variance below 0 would give NaN.
    """
    known = torch.cat([new for _, new in tasks])
    smallest = known.min()
    if smallest <= 0:
        return found
    return torch.where(found > 0, found, smallest)


def predict(vectors: Tensor, tasks: Sequence[Vectors], damping: float) -> Tensor:
    """Return vectors on the target from those on the source, by the map of some tasks."""
    x = torch.cat([old for old, _ in tasks])
    y = torch.cat([new for _, new in tasks])
    source_mean = x.mean(0)
    target_mean = y.mean(0)
    x = x - source_mean
    y = y - target_mean
    scale = float(x.square().mean())
    identity = torch.eye(x.shape[1], y.shape[1]).to(x)
    # Without any variance there is nothing to learn, and the identity stays.
    matrix = find_ridge(y, x, identity, damping * (scale or 1.0))
    return target_mean + (vectors - source_mean) @ matrix
