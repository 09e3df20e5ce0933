"""A new threshold from a logistic fit of being right, on a few labelled images."""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import NotTransferable
from compatbench.method import Method, MethodConfig, Module
from compatbench.method.transfer import ANSWER, Transfer, TransferCard, TransferData

from ._shared.moved_threshold import best_scores, read_threshold, with_threshold

STEPS = 100  # of Newton's method, which takes about ten


class Platt(Transfer):
    """τ_t is the least score at which the images of that score or more are expected to be right.

    P(right) = σ(a x + b), x being an image's best score on the target, is fitted on k labelled
    images per class as by Platt, *Probabilistic Outputs for Support Vector Machines*: with n₊
    images right and n₋ wrong, towards (n₊ + 1) / (n₊ + 2) and 1 / (n₋ + 2), so that the fit is
    finite where a score tells them apart. τ_t is the least of their scores at which the mean of P
    over the images with as much or more reaches the precision that the module was fitted for;
    otherwise that of the highest mean: the method's own rule (``choose``), with P in place of
    right and wrong. a and b are the same for all classes.
    """

    card = TransferCard(
        name="platt",
        title="Platt scaling",
        paper="",
        access={"labels"},
        plain=True,
        summary="The threshold is chosen by a logistic fit of being right on k images per class.",
        takes=ANSWER,
    )

    class Config(MethodConfig):
        shots: PositiveInt

    def carry(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Module:
        images, old = data.labels.train, read_threshold(module)
        if (choose := getattr(method, "choose", None)) is None:
            raise NotTransferable("the method chooses its threshold by no probabilities ('choose')")
        scores, classes = best_scores(method, module, target, labels, images.plain)
        chances = fit_chances(scores, classes == images.targets)
        return with_threshold(module, choose(scores, classes, chances, len(old)))


def fit_chances(scores: Tensor, right: Tensor) -> Tensor:
    """The probabilities of being right that Platt's fit gives images, ``[N]``.

    Newton's method from a flat curve, with steps that are halved until the loss falls.
    """
    x, hits = scores.double(), int(right.sum())
    x = (x - x.mean()) / x.std(correction=0).clamp(min=1e-12)
    rows = torch.stack([x, torch.ones_like(x)], dim=1)
    misses = len(x) - hits
    low, high = 1 / (misses + 2), (hits + 1) / (hits + 2)
    targets = low + (high - low) * right.double()
    curve = torch.stack([x.new_zeros(()), targets.mean().logit()])

    def loss(of: Tensor) -> Tensor:
        z = rows @ of
        return (torch.nn.functional.softplus(z) - targets * z).sum()

    for _ in range(STEPS):
        chances = (rows @ curve).sigmoid()
        slope = rows.T @ (chances - targets)
        if slope.abs().max() < 1e-12 * len(x):
            break
        bend = (rows * (chances * (1 - chances))[:, None]).T @ rows
        step = torch.linalg.solve(bend + 1e-12 * torch.eye(2).to(bend), slope)
        while loss(curve - step) > loss(curve) and step.abs().max() > 1e-15:
            step = step / 2
        curve = curve - step
    return (rows @ curve).sigmoid()
