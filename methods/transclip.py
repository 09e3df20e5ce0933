"""TransCLIP: all test images are classified together, by Gaussians, neighbours and the text.

Predictions start at zero-shot and are refined in rounds: by a Gaussian for each class, by the
predictions of similar test images, and by the text. All test images have to be there at once,
and nothing is trained.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    FewShotData,
    Labels,
    Method,
    MethodCard,
    Module,
)

from ._shared.texts import Templates, zero_shot


class TransCLIP(Method):
    """z_i = softmax(s · x_i W_0ᵀ + g · ℓ_i + n · ((A + Aᵀ) z)_i), for all images x together.

    Zanella et al., *Boosting Vision-Language Models with Transduction*, section 3, in its
    zero-shot form. ℓ_ic = −½ Σ_d (x_id − μ_cd)² / σ_d is the likelihood of a Gaussian for each
    class with one diagonal covariance σ for all, up to a constant. A holds the cosines of each
    image to its k nearest others, and 0 elsewhere. z starts at zero-shot, μ_c at the mean of
    the images that are surest of class c, weighted by z, and σ at 1/e. Each round computes z
    ``repeats`` times, and then μ_c = norm(Σ_i z_ic x_i) and σ_d = mean_i Σ_c z_ic (x_id − μ_cd)²;
    the last round computes z alone. The logits are what stands in the last softmax.

    Nothing is learned. The module holds the weights g = 1/50 and n = 1/(2k).
    """

    card = MethodCard(
        name="transclip",
        title="TransCLIP (zero-shot)",
        paper="arXiv:2406.01837",
        inserts="classifier",
        summary="classifies all test images together, by Gaussians, neighbours and the text",
        needs={"stream"},
        learns=False,
        zero_shot_at={"gaussians": 0.0, "neighbours": 0.0},
    )

    class Config(Method.Config):
        templates: Templates = "first"
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

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        config, text = self.config, zero_shot(backbone, labels, self.config.templates)
        g, n = (float(module[name]) for name in ("gaussians", "neighbours"))

        def classify(images: Tensor) -> Tensor:
            x = F.normalize(images, dim=-1)
            logits = start = backbone.logit_scale * x @ text.T
            z, near = start.softmax(-1), find_neighbours(x, config.nearest)
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

        return classify


def find_neighbours(x: Tensor, count: int) -> Tensor:
    """A + Aᵀ ``[Q, Q]``, sparse, of normalised rows ``[Q, e]``."""
    size, best = len(x), []
    for rows in torch.arange(size, device=x.device).split(1024):
        cosines = x[rows] @ x.T
        cosines[torch.arange(len(rows)), rows] = -torch.inf  # itself
        best.append(cosines.topk(min(count, size - 1)))
    values, columns = (torch.cat(parts) for parts in zip(*best, strict=True))
    rows = torch.arange(size, device=x.device)[:, None].expand_as(columns)
    where = torch.stack([rows.flatten(), columns.flatten()])
    nearest = torch.sparse_coo_tensor(where, values.flatten(), (size, size), check_invariants=True)
    return (nearest + nearest.T).coalesce()


def likelihoods(x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """ℓ ``[Q, C]`` of rows ``[Q, e]``, means ``[C, e]`` and one diagonal ``[e]``."""
    # Multiplied out, as all differences at once would be [Q, C, e].
    squares = (x.square() @ (1 / spread))[:, None] + mean.square() @ (1 / spread)
    return x @ (mean / spread).T - squares / 2


def estimate_spread(x: Tensor, z: Tensor, mean: Tensor) -> Tensor:
    """σ ``[e]``: the mean over images of Σ_c z_ic (x_i − μ_c)², dimension by dimension."""
    mixed = x.square() - 2 * x * (z @ mean) + z @ mean.square()
    return mixed.mean(0).clamp(min=1e-9)  # an image alone has none
