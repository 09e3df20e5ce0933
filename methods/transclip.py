"""TransCLIP: all test images are classified together, by Gaussians, neighbours and the text.

Predictions start at zero-shot and are refined in rounds: by a Gaussian for each class, by the
predictions of similar test images, and by the text. Nothing is trained.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from compatbench.method import Backbone, FewShotData, MethodCard, Module

from ._shared.streams import StreamMethod, estimate_spread, find_neighbours


class TransCLIP(StreamMethod):
    """z_i = softmax(s · x_i W_0ᵀ + g · ℓ_i + n · ((A + Aᵀ) z)_i), for all images x together.

    Zanella et al., *Boosting Vision-Language Models with Transduction*, section 3, in its
    zero-shot form. ℓ_ic = −½ Σ_d (x_id − μ_cd)² / σ_d is, up to a constant, the log-likelihood
    of a Gaussian; all classes share the diagonal covariance σ. A holds the cosines of each
    image with its k nearest others, and 0 elsewhere. z starts at zero-shot, μ_c at the mean of
    the images with the largest z_ic, weighted by z, and σ at 1/e. Each round computes z
    ``repeats`` times, and then μ_c = norm(Σ_i z_ic x_i) and σ_d = mean_i Σ_c z_ic (x_id −
    μ_cd)²; the last round computes z alone. The logits are the argument of the last softmax.

    In detail: the module holds the weights g = 1/50 and n = 1/(2k).
    """

    card = MethodCard(
        name="transclip",
        title="TransCLIP (zero-shot)",
        paper="arXiv:2406.01837",
        inserts="classifier",
        summary="classifies all test images together, by neighbours and text",
        needs={"stream"},
        learns=False,
        zero_shot_at={"gaussians": 0.0, "neighbours": 0.0},
    )

    class Config(StreamMethod.Config):
        gaussians: NonNegativeFloat = 1 / 50
        nearest: PositiveInt = 3  # k
        surest: PositiveInt = 8
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
        logits = start
        z = start.softmax(-1)
        near = find_neighbours(x, config.nearest)
        surest, rows = z.topk(min(config.surest, len(x)), dim=0)
        mean = F.normalize(torch.einsum("kc,kce->ce", surest, x[rows]), dim=-1)
        spread = torch.full_like(x[0], 1 / x.shape[1])
        for number in range(config.rounds):
            if number > 0:
                mean = F.normalize(z.T @ x, dim=-1)
                spread = estimate_spread(x, z, mean)
            fixed = start + g * likelihoods(x, mean, spread)
            for _ in range(config.repeats):
                logits = fixed + n * (near @ z)
                z = logits.softmax(-1)
        return logits


def likelihoods(x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Return ℓ ``[Q, C]`` of rows ``[Q, e]``, means ``[C, e]`` and one diagonal ``[e]``."""
    # The square is multiplied out, because all differences would be [Q, C, e].
    squares = (x.square() @ (1 / spread))[:, None] + mean.square() @ (1 / spread)
    return x @ (mean / spread).T - squares / 2
