"""ADAPT: zero-shot is corrected by Gaussians of the surest test images, while they stream by.

A bank keeps the test images of each class that are classified with most certainty. Their means,
mixed with the text, and one covariance for all classes give the likelihood of an image in closed
form. Nothing is trained.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import Backbone, FewShotData, MethodCard, Module

from ._shared.streams import Cache, StreamMethod


class ADAPT(StreamMethod):
    """z_c = s · ⟨f̂, t_c⟩ · exp(a_c − max a), a = g · log softmax(ℓ) + n · mean_j ⟨f̂, x_j⟩ p_j y_j.

    Zhang et al., *Backpropagation-Free Test-Time Adaptation via Probabilistic Gaussian Alignment*,
    in its online form. ℓ_c = f̂ Ω μ_cᵀ − ½ μ_c Ω μ_cᵀ is, up to what all classes share, the
    log-likelihood of a Gaussian. The bank keeps, for each class ŷ that zero-shot finds likeliest,
    the ``capacity`` images x_j with the lowest entropies of zero-shot; p_j is the probability of
    that class, and y_j is one-hot at it. Each test image is offered to the bank before it is
    classified. If it enters, the mean of its class becomes μ = mix · Σ p x / Σ p + (1 − mix) t,
    with sums over the class's images and once more over the image itself; μ_c starts at the text
    t_c. With Σ the covariance of all x_j − μ_{ŷ_j}, n_b their number and e the size of features,
    Ω = e ((n_b − 1) Σ + tr(Σ) I)⁻¹.

    In detail: the formulas are those of the authors' code, except that it compares an image that
    does not enter the bank by the similarities of the last one that did. It computes no confidence;
    ours is that of softmax(z). The module holds g = 1/20, the authors' value for ImageNet, and
    n = 1/2; they use other values of g for other datasets. The bank is filled anew from every
    stream.
    """

    card = MethodCard(
        name="adapt",
        title="ADAPT (online)",
        paper="arXiv:2508.15568",
        inserts="classifier",
        summary="Gaussians of the surest test images correct zero-shot",
        needs={"stream"},
        learns=False,
        zero_shot_at={"gaussians": 0.0, "neighbours": 0.0},
    )

    class Config(StreamMethod.Config):
        capacity: PositiveInt = 16
        mix: Annotated[float, Field(ge=0, le=1)] = 0.9
        temperature: PositiveFloat = 20.0  # 1/g
        neighbours: NonNegativeFloat = 0.5

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        gaussians = torch.tensor(1 / self.config.temperature)
        neighbours = torch.tensor(self.config.neighbours)
        stored = {"gaussians": gaussians, "neighbours": neighbours}
        return Module(stored=stored).to(backbone.device)

    def adapt(self, module: Module, features: Tensor, start: Tensor, text: Tensor) -> Tensor:
        g = float(module["gaussians"])
        n = float(module["neighbours"])
        probabilities = start.softmax(-1)
        entropies = torch.special.entr(probabilities).sum(-1)
        bank = Cache(text, self.config.capacity)
        means = text.clone()
        weight = torch.zeros_like(text)
        bias = torch.zeros_like(text[:, 0])
        rows = []
        for i, guess in enumerate(start.argmax(-1).tolist()):
            x = features[i]
            p = torch.zeros_like(start[i])
            p[guess] = probabilities[i, guess]
            if bank.offer(guess, float(entropies[i]), x, p):
                mean = mean_images(bank, guess, x, p[guess])
                means[guess] = self.config.mix * mean + (1 - self.config.mix) * text[guess]
                weight, bias = discriminate(bank, means)
            likelihood = (weight @ x + bias).log_softmax(-1)
            shares = own_probabilities(bank)
            near = (bank.keys @ x * shares).sum(1) / (shares > 0).sum()
            exponent = g * likelihood + n * near
            rows.append(start[i] * torch.exp(exponent - exponent.max()))
        return torch.stack(rows)


def own_probabilities(bank: Cache) -> Tensor:
    """Return p of the images in the bank, ``[C, capacity]``, and 0 in empty places."""
    return bank.values.diagonal(dim1=0, dim2=2).T


def mean_images(bank: Cache, label: int, x: Tensor, p: Tensor) -> Tensor:
    """Return Σ p x / Σ p ``[e]`` over a class's images in the bank and once more the newest.

    Args:
        x: the newest image, ``[e]``.
        p: the probability of the class for it.
    """
    shares = own_probabilities(bank)[label]
    return (shares @ bank.keys[label] + p * x) / (shares.sum() + p)


def discriminate(bank: Cache, means: Tensor) -> tuple[Tensor, Tensor]:
    """Return μ Ω ``[C, e]`` and −½ μ_c Ω μ_cᵀ ``[C]`` of the bank and the means ``[C, e]``."""
    kept = own_probabilities(bank) > 0
    owners = kept.nonzero()[:, 0]
    residuals = bank.keys[kept] - means[owners]
    count, size = residuals.shape
    identity = torch.eye(size).to(means)
    covariance = identity if count == 1 else residuals.T.cov()
    shrunk = (count - 1) * covariance + covariance.trace() * identity
    if not shrunk.any():  # images that are all equal say nothing
        return torch.zeros_like(means), torch.zeros_like(means[:, 0])
    weight = size * torch.linalg.solve(shrunk, means.T).T
    return weight, -(weight * means).sum(1) / 2
