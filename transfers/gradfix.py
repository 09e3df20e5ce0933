"""GradFix: the part of the old module that agrees in sign with the target's own gradient."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import NotTransferable
from compatbench.method import FewShotData, Method, MethodCard, MethodConfig, Module
from compatbench.method.transfer import Transfer, TransferCard, TransferData

from ._shared.training import best_module

FACTORS = tuple(step / 10 for step in range(1, 11))


class GradFix(Transfer):
    """α τ′ replaces τ, where τ′ = τ if sign τ = g, else 0.

    Rinaldi et al., *Gradient-Sign Masking for Task Vector Transport Across Pre-Trained Models*:
    τ is the difference learned on the source. g is the sign in which most of the few-shot images
    would change it on the target, at τ = 0. Here τ are the module's tensors that are 0 at the
    zero-shot classifier; of low-rank updates B A it is B, with A as it was fitted. α is the first
    of 0.1, 0.2, ..., 1 that classifies the validation images best; the authors' code takes the
    best on the test set. Without validation images, α is 1.
    """

    card = TransferCard(
        name="gradfix",
        title="GradFix",
        paper="arXiv:2510.09658",
        access={"labels"},
        plain=True,
        summary="What the target's gradient on k images per class disagrees with is left out.",
        version=2,
    )

    class Config(MethodConfig):
        shots: PositiveInt

    def serves(self, method: MethodCard) -> bool:
        return super().serves(method) and has_zero_point(method)

    def carry(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Module:
        return mask_by_gradient(method, module, target, data.labels)


def has_zero_point(card: MethodCard) -> bool:
    """Return True if a method is the zero-shot classifier where some of its tensors are 0."""
    values = card.zero_shot_at.values()
    return len(values) > 0 and all(value == 0 for value in values)


def differences(card: MethodCard, module: Module) -> dict[str, Tensor]:
    """Return the trained tensors τ of a module that are 0 at the zero-shot classifier.

    Raises:
        NotTransferable: the method has no such point, or a stored number must be 0 to reach it.
    """

    def is_zero_at_zero_shot(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in card.zero_shot_at)

    names = filter(is_zero_at_zero_shot, module.trained)
    found = {name: module.trained[name] for name in names}
    needs_stored = any(is_zero_at_zero_shot(name) for name in module.stored)
    if not has_zero_point(card) or not found or needs_stored:
        raise NotTransferable("the module is no difference from the zero-shot classifier")
    return found


@torch.enable_grad()
def vote_signs(
    method: Method, module: Module, names: list[str], target: Backbone, data: FewShotData
) -> dict[str, Tensor]:
    """Return for some tensors the signs in which most few-shot images would change them.

    They are the majority of sign(−∂L_i/∂θ) over the images i, with L_i their cross-entropy, and
    0 if there is no majority.
    """
    start = module.detach()
    tensors = [start.trained[name].requires_grad_(True) for name in names]
    classify = method.attach(start, target, data.labels)
    votes = [torch.zeros_like(tensor) for tensor in tensors]
    for row, label in enumerate(data.train.targets):
        logits = classify(data.train.inputs(torch.tensor([row], device=label.device)))
        loss = F.cross_entropy(logits, label[None])
        # The graph of ``attach`` is kept, because all images share it.
        gradients = torch.autograd.grad(loss, tensors, retain_graph=True)
        for total, gradient in zip(votes, gradients, strict=True):
            total -= gradient.sign()
    return {name: total.sign() for name, total in zip(names, votes, strict=True)}


def mask_by_gradient(method: Method, module: Module, target: Backbone, data: FewShotData) -> Module:
    """Return the module with α τ′ in place of τ; see ``GradFix``."""
    tau = differences(method.card, module)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in tau.items()}
    at_zero = Module(module.trained | zeros, module.stored)
    signs = vote_signs(method, at_zero, list(tau), target, data)
    masked = {}
    for name, tensor in tau.items():
        masked[name] = torch.where(tensor.sign() == signs[name], tensor, 0)

    def scale(factor: float) -> Module:
        scaled = {name: factor * tensor for name, tensor in masked.items()}
        return Module(module.trained | scaled, module.stored)

    factors = FACTORS if len(data.val) else (1.0,)
    return best_module(map(scale, factors), method, target, data)
