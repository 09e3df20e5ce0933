"""StatA: all test images are classified together, by Gaussians that are anchored to the text.

It is TransCLIP with a Gaussian for each class whose mean and spread stay near those of the text.
The fewer images a class seems to have, the nearer they stay: a class that is absent keeps its text.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import Backbone, FewShotData, MethodCard, Module

from ._shared.streams import StreamMethod, estimate_spread, find_neighbours


class StatA(StreamMethod):
    """z_i = softmax(s · x_i W_0ᵀ + g · ℓ_i + n · ((A + Aᵀ) z)_i), for all images x together.

    Zanella, Fuchs et al., *Realistic Test-Time Adaptation of Vision-Language Models*, section 4.
    ℓ_ic = −½ Σ_d ((x_id − μ_cd)² / σ_cd + log σ_cd) is the log-likelihood of a Gaussian with a
    diagonal covariance, and A holds the cosines of each image with its k nearest others. z starts
    at zero-shot, μ_c at the text t_c, and every σ_c at σ_0 = mean_i Σ_c z_ic (x_i − t_c)². Each
    round computes z ``repeats`` times. With β_c = N_c / (N_c + α) and N_c the number of images
    whose largest z is that of c, it then computes μ_c = norm(β_c m_c + (1 − β_c) t_c) and
    σ_c = β_c v_c + (1 − β_c) (σ_0 + (t_c − μ_c)²), where m_c = norm(Σ_i z_ic x_i) and
    v_c = Σ_i z_ic (x_i − μ_c)² / Σ_i z_ic. The last round computes z alone. The logits are the
    numbers inside the last softmax.

    In detail: g = 1/50 weighs the Gaussians and n = 1/(2k) the neighbours; the module holds both.
    By default k = 3, α = 1, and there are 11 rounds with 5 repeats. The stream is one batch with
    all classes, the last of the paper's protocols; the others choose the classes of a batch by
    their labels. The authors' code divides σ_0 again for each 2,500 images; the paper and we divide
    once.
    """

    card = MethodCard(
        name="stata",
        title="StatA",
        paper="arXiv:2501.03729",
        inserts="classifier",
        summary="classifies all test images together, by Gaussians anchored to the text",
        needs={"stream"},
        learns=False,
        zero_shot_at={"gaussians": 0.0, "neighbours": 0.0},
    )

    class Config(StreamMethod.Config):
        alpha: PositiveFloat = 1.0
        gaussians: NonNegativeFloat = 1 / 50
        nearest: PositiveInt = 3  # k
        rounds: PositiveInt = 11
        repeats: PositiveInt = 5

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        gaussians = torch.tensor(self.config.gaussians)
        neighbours = torch.tensor(1 / (2 * self.config.nearest))
        stored = {"gaussians": gaussians, "neighbours": neighbours}
        return Module(stored=stored).to(backbone.device)

    def adapt(self, module: Module, features: Tensor, start: Tensor, text: Tensor) -> Tensor:
        config = self.config
        x = features
        g = float(module["gaussians"])
        n = float(module["neighbours"])
        near = find_neighbours(x, config.nearest)
        logits = start
        z = start.softmax(-1)
        mean = text
        first_spread = estimate_spread(x, z, text)
        spread = first_spread.expand_as(text)
        for number in range(config.rounds):
            if number > 0:
                beta = trust_images(z, config.alpha)
                mean = F.normalize(z.T @ x, dim=-1)
                mean = F.normalize(beta * mean + (1 - beta) * text, dim=-1)
                anchor = first_spread + (text - mean).square()
                spread = beta * class_spreads(x, z, mean) + (1 - beta) * anchor
            fixed = start + g * class_likelihoods(x, mean, spread)
            for _ in range(config.repeats):
                logits = fixed + n * (near @ z)
                z = logits.softmax(-1)
        return logits


def trust_images(z: Tensor, alpha: float) -> Tensor:
    """Return β ``[C, 1]`` of predictions ``[Q, C]``: how far images replace the text of a class."""
    count = torch.bincount(z.argmax(-1), minlength=z.shape[1]).to(z)
    return (count / (count + alpha))[:, None]


def class_spreads(x: Tensor, z: Tensor, mean: Tensor) -> Tensor:
    """Return v ``[C, e]`` of rows ``[Q, e]``, predictions ``[Q, C]`` and means ``[C, e]``."""
    smallest = torch.finfo(z.dtype).tiny  # a class without predictions has no spread
    weight = z.sum(0).clamp(min=smallest)[:, None]
    # The square is multiplied out, because all differences would be [Q, C, e].
    squares = z.T @ x.square() - 2 * mean * (z.T @ x)
    return (squares / weight + mean.square()).clamp(min=0)


def class_likelihoods(x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Return ℓ ``[Q, C]`` of rows ``[Q, e]``, and means and diagonals ``[C, e]``."""
    squares = x.square() @ (1 / spread).T - 2 * x @ (mean / spread).T
    constants = (mean.square() / spread + spread.log()).sum(1)
    return -(squares + constants) / 2
