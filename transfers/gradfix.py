"""GradFix: of the old module, what agrees in sign with the target's own gradient."""

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
    """α τ′ takes the place of τ, where τ′ = τ if sign τ = g, else 0.

    Rinaldi et al., *Gradient-Sign Masking for Task Vector Transport Across Pre-Trained Models*:
    τ is what was learned on the source, and g the sign in which most of the few-shot images
    would change it on the target, at τ = 0. Here τ are the module's tensors that are 0 at the
    zero-shot classifier; of low-rank updates B A it is B, with A as it was fitted. α is the first
    of 0.1, 0.2, ..., 1 that classifies the validation images best, where the authors' code takes
    the best on the test set; it is 1 without such images.
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
    """Whether a method is the zero-shot classifier where some of its tensors are 0."""
    return bool(card.zero_shot_at) and all(fill == 0 for fill in card.zero_shot_at.values())


def differences(card: MethodCard, module: Module) -> dict[str, Tensor]:
    """The trained tensors τ of a module that are 0 at the zero-shot classifier.

    Raises:
        NotTransferable: the method has no such point, or reaches it by a number that is stored.
    """

    def at_zero(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in card.zero_shot_at)

    learned = {name: tensor for name, tensor in module.trained.items() if at_zero(name)}
    if not has_zero_point(card) or not learned or any(map(at_zero, module.stored)):
        raise NotTransferable("the module is no difference from the zero-shot classifier")
    return learned


@torch.enable_grad()
def vote_signs(
    method: Method, module: Module, names: list[str], target: Backbone, data: FewShotData
) -> dict[str, Tensor]:
    """The sign in which most few-shot images want each number of some tensors to change.

    The majority of sign(−∂L_i/∂θ) over the images i, with L_i their cross-entropy; 0 if they
    are even.
    """
    start = module.detach()
    trained = [start.trained[name].requires_grad_(True) for name in names]
    classify = method.attach(start, target, data.labels)
    sums = [torch.zeros_like(tensor) for tensor in trained]
    for row, label in enumerate(data.train.targets):
        logits = classify(data.train.inputs(torch.tensor([row], device=label.device)))
        loss = F.cross_entropy(logits, label[None])
        for total, slope in zip(
            sums, torch.autograd.grad(loss, trained, retain_graph=True), strict=True
        ):
            total -= slope.sign()
    return {name: total.sign() for name, total in zip(names, sums, strict=True)}


def mask_by_gradient(method: Method, module: Module, target: Backbone, data: FewShotData) -> Module:
    """The module with α τ′ in place of τ, as ``GradFix`` says."""
    learned = differences(method.card, module)
    zero = Module(
        module.trained | {name: torch.zeros_like(t) for name, t in learned.items()}, module.stored
    )
    signs = vote_signs(method, zero, list(learned), target, data)
    kept = {name: torch.where(t.sign() == signs[name], t, 0) for name, t in learned.items()}
    scaled = (
        Module(module.trained | {name: factor * t for name, t in kept.items()}, module.stored)
        for factor in (FACTORS if len(data.val) else (1.0,))
    )
    return best_module(scaled, method, target, data)
