"""Several fits of a method in one batch: what each operation computes is of all of them.

A step of a small module is many small operations, and most of its time is the starting of those,
on a GPU above all. PyTorch's ``vmap`` has the loss of one fit compute those of all. Nothing is
taken on trust: the gradients of the first steps must be those of single fits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

from compatbench.backbone.parts.memory import current_budget, memory_budget
from compatbench.method import Backbone, FewShotData, Method, Module
from compatbench.method.batch import Batch
from compatbench.method.mistakes import check_module
from compatbench.method.trained import Stage, TrainedMethod, choose_rates

CHECKED = 2  # steps; in the first, a tensor that starts at zero may leave others no gradient
ROUNDING = 1e-3  # of a gradient, at most; and of that of the whole module, a thousandth of it
Loss = Callable[[Module, Batch], Tensor]


class NotTogether(Exception):
    """Fits have to be made one after the other; the message says why."""


def can_be_together(method: Method) -> TypeGuard[TrainedMethod]:
    """Whether fits of a method may be made in one batch.

    Its card says that a step depends on nothing but the module and the batch, and the fit is a
    single stage of such steps.
    """
    is_plain = isinstance(method, TrainedMethod) and type(method).fit is TrainedMethod.fit
    return is_plain and method.card.replays


def fit_together(
    methods: Sequence[Method],
    backbone: Backbone,
    draws: Sequence[FewShotData],
    rngs: Sequence[torch.Generator],
) -> list[Module]:
    """The modules of several fits, each as ``Method.fit`` makes it but for rounding.

    Args:
        methods: for each fit; of their settings the learning rate alone may differ.
        draws: for each fit, of one task and as many images.
        rngs: for each fit.

    Raises:
        NotTogether: the method cannot, modules have unlike shapes, or gradients are not those of
            single fits.
    """
    trained = [method for method in methods if can_be_together(method)]
    if len(trained) < len(methods):
        raise NotTogether("a step of the method may depend on more than its batch")
    first, labels, count = trained[0], draws[0].labels, len(draws)
    modules = [
        method.init(backbone, data, rng)
        for method, data, rng in zip(trained, draws, rngs, strict=True)
    ]
    for module in modules:
        check_module(module, first.init)
    if len({_shapes(module) for module in modules}) > 1:
        raise NotTogether("modules have unlike shapes")

    def loss(module: Module, batch: Batch) -> Tensor:
        return first.loss(first.attach(module, backbone, labels), batch)

    rates = {
        f"{i}/{name}": rate
        for i, (method, module) in enumerate(zip(trained, modules, strict=True))
        for name, rate in choose_rates(method, module, method.config.recipe.lr).items()
    }
    steps = first.plan_steps(draws[0].shots, len(draws[0].train))
    stage = Stage(draws, rngs, first.config.recipe, rates, *steps)
    budget = current_budget()
    with memory_budget(None if budget is None else max(budget // count, 1)):
        joined = first._descend(_join(modules), _Losses(loss, count), backbone, stage)
    return [
        method.finish(module, backbone, data)
        for method, module, data in zip(trained, _split(joined, count), draws, strict=True)
    ]


def _shapes(module: Module) -> tuple[Any, ...]:
    return tuple((name, x.shape, x.dtype) for name, x in module.tensors.items())


def _join(modules: Sequence[Module]) -> Module:
    """One module of the tensors of several, whose names begin with a number and a slash."""
    parts = [
        {
            f"{i}/{name}": x
            for i, module in enumerate(modules)
            for name, x in tensors(module).items()
        }
        for tensors in (lambda module: module.trained, lambda module: module.stored)
    ]
    return Module(*parts)


def _split(joined: Module, count: int) -> list[Module]:
    """The modules that ``_join`` has joined."""

    def take(tensors: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        start = f"{number}/"
        return {n.removeprefix(start): x for n, x in tensors.items() if n.startswith(start)}

    return [Module(take(joined.trained, i), take(joined.stored, i)) for i in range(count)]


class _Losses:
    """The sum of the losses of several fits, of their joined module and batch."""

    def __init__(self, loss: Loss, count: int) -> None:
        self._loss, self._count, self._taken = loss, count, 0

    def __call__(self, joined: Module, batch: Batch) -> Tensor:
        modules = _split(joined, self._count)
        parts = [x.unflatten(0, (self._count, -1)) for x in batch.tensors]
        total = self._compute(modules, parts, batch).sum()
        self._taken += 1
        if self._taken <= CHECKED:
            self._check(total, modules, parts, batch)
        return total

    def _compute(self, modules: Sequence[Module], parts: Sequence[Tensor], batch: Batch) -> Tensor:
        """The losses of all fits, ``[fits]``."""
        trained, stored = (
            {name: torch.stack([module[name] for module in modules]) for name in names}
            for names in (modules[0].trained, modules[0].stored)
        )

        def compute(own: tuple[dict[str, Tensor], dict[str, Tensor]], images: Any) -> Tensor:
            return self._loss(Module(*own), batch.with_tensors(images))

        with warnings.catch_warnings():
            # Where PyTorch has no such operation of several fits, it takes one of each.
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            return torch.vmap(compute)((trained, stored), list(parts))

    def _check(
        self, total: Tensor, modules: Sequence[Module], parts: Sequence[Tensor], batch: Batch
    ) -> None:
        """Refuses gradients that are not those of single fits."""
        for i, module in enumerate(modules):
            trained = [*module.trained.values()]
            alone = self._loss(module, batch.with_tensors([part[i] for part in parts]))
            both = [
                torch.autograd.grad(
                    value, trained, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                for value in (alone, total)
            ]
            size = sum(float(x.norm()) ** 2 for x in both[0]) ** 0.5
            for x, y in zip(*both, strict=True):
                # So written, what is no number is refused as well.
                if not float((x - y).norm()) <= ROUNDING * (float(x.norm()) + 1e-3 * size):
                    raise NotTogether("a gradient is not that of a single fit")
