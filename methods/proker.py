"""ProKeR: kernel ridge regression of the errors of the zero-shot classifier.

The regression is fitted to the shots in closed form, and corrects zero-shot. Far from all shots
the prediction is that of zero-shot.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    FewShotData,
    Labels,
    Method,
    MethodCard,
    Module,
    require_shape,
)

from ._shared.cache import last_views, store
from ._shared.texts import Templates, zero_shot


class ProKeR(Method):
    """z = s · (f̂ W_0ᵀ + κ(f̂, G) α) with α = (κ(G, G)/λ + I)⁻¹ (Y − G W_0ᵀ), in closed form.

    Bendou et al., *ProKeR: A Kernel Perspective on Few-Shot Adaptation of Large Vision-Language
    Models*, section 4. κ(a, b) = exp(−β (1 − ⟨a, b⟩)). The rows of G are the normalised
    features of the shots, one for every shot and training view, and those of Y their one-hot
    labels. As in the authors' code, the factor 1/λ is omitted; λ → 0 then gives zero-shot.

    β and λ: the grid pair with the best few-shot validation accuracy (the first, if tied);
    without validation images, the authors' for ImageNet at 16 shots. The module
    holds G and α, which was solved beside the source's W_0; the first term is the current
    model's.
    """

    card = MethodCard(
        name="proker",
        title="ProKeR",
        paper="arXiv:2501.11175",
        inserts="classifier",
        summary="kernel regression of zero-shot's errors",
        zero_shot_at={"alpha": 0.0},
    )

    class Config(Method.Config):
        templates: Templates = "first"
        # The number of training views used, counted from the last; by default all. A fit solves
        # a system of views · shots rows.
        cache_views: PositiveInt | None = None
        beta: NonNegativeFloat = 1.7
        penalty: PositiveFloat = 0.1
        betas: tuple[NonNegativeFloat, NonNegativeFloat] = (0.5, 3.0)
        beta_steps: PositiveInt = 20
        penalties: tuple[PositiveFloat, PositiveFloat] = (0.001, 1.0)
        penalty_steps: PositiveInt = 10

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        config = self.config
        dtype = data.train.views.dtype
        # In single precision κ/λ + I is too near to singular if λ is small.
        views = F.normalize(last_views(data, config.cache_views).double(), dim=-1)
        val = F.normalize(data.val.plain.double(), dim=-1)
        text = zero_shot(backbone, data.labels, config.templates).double()
        keys = views.flatten(0, 1)
        targets = data.train.targets.repeat(len(views))
        errors = F.one_hot(targets, len(text)) - keys @ text.T
        most_hits = -1
        beta = config.beta
        penalty = config.penalty
        betas = grid(config.betas, config.beta_steps) if len(val) else []
        for tried_beta in betas:
            key_kernel = kernel(keys, keys, tried_beta)
            val_kernel = kernel(val, keys, tried_beta)
            for tried_penalty in grid(config.penalties, config.penalty_steps):
                alpha = solve(key_kernel, tried_penalty, errors)
                logits = val @ text.T + val_kernel @ alpha
                hits = int((logits.argmax(-1) == data.val.targets).sum())
                if hits > most_hits:
                    most_hits = hits
                    beta = tried_beta
                    penalty = tried_penalty
        alpha = solve(kernel(keys, keys, beta), penalty, errors)
        module = Module({"alpha": alpha.to(dtype)}, {"keys": keys.to(dtype)})
        return store(module, beta=beta, penalty=penalty)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        keys = require_shape(module, "keys", backbone.embed_dim, "image features of size")
        alpha = require_shape(module, "alpha", len(labels), "a number of classes of")
        text = zero_shot(backbone, labels, self.config.templates)

        def classify(features: Tensor) -> Tensor:
            features = F.normalize(features, dim=-1)
            change = kernel(features, keys, float(module["beta"])) @ alpha
            return backbone.logit_scale * (features @ text.T + change)

        return classify


def kernel(a: Tensor, b: Tensor, beta: float) -> Tensor:
    """Return κ ``[n, m]`` of normalised features ``[n, e]`` and ``[m, e]``."""
    return torch.exp(-beta * (1 - a @ b.T))


def solve(key_kernel: Tensor, penalty: float, errors: Tensor) -> Tensor:
    """Return α ``[n, C]`` for the kernel of the keys ``[n, n]`` and their errors ``[n, C]``."""
    identity = torch.eye(len(key_kernel)).to(key_kernel)
    factor = torch.linalg.cholesky(key_kernel / penalty + identity)
    return torch.cholesky_solve(errors, factor)


def grid(ends: tuple[float, float], steps: int) -> list[float]:
    """Return evenly spaced numbers, including both ends."""
    return torch.linspace(*ends, steps, dtype=torch.float64).tolist()
