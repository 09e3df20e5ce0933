"""APE: a cache over the channels that tell classes apart, its values weighted by the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    FewShotData,
    Labels,
    Method,
    MethodCard,
    MethodConfig,
    Module,
    require_shape,
)

from .tip_adapter import build_cache


class PriorConfig(MethodConfig):
    """The choice of channels, α and β before the search, and the grid of the search."""

    channels: Annotated[float, Field(gt=0, le=1)] = 500 / 1024
    similarity_weight: NonNegativeFloat = 0.7
    variance_weight: NonNegativeFloat = 0.3
    alpha: NonNegativeFloat = 2.0
    beta: NonNegativeFloat = 1.0
    most_alpha: PositiveFloat = 7.0
    most_beta: PositiveFloat = 7.0
    alpha_steps: PositiveInt = 20
    beta_steps: PositiveInt = 200


class APE(Method):
    """z = s · f̂ W_0ᵀ + α · exp(−β (1 − f̂_Q G_Qᵀ)) diag(exp(γ KL)) Y, without training.

    Zhu et al., *Not All Features Matter: Enhancing Few-shot CLIP with Adaptive Prior
    Refinement*, sections 3.1 and 3.2. G and Y are Tip-Adapter's cache. Q is a subset of
    the feature's channels, in which classes differ most (``choose_channels``); features,
    keys and text are normalised again within it. KL_i = Σ Y_i log₂(Y_i / softmax(G_Q W_Qᵀ)_i)
    says how far the text is from agreeing with key i.

    Defaults are the authors' for ImageNet: 500 of ResNet-50's 1,024 channels, weights 0.7
    and 0.3, α = 2, β = 1, γ = 0.1, and their grid. They search α, β and γ on the full
    validation set, and on the test set for ImageNet; here the search uses the few-shot
    validation split. Its choice and Q are stored in the module; KL is derived from the
    backbone's text. Their GPT-3 prompts are replaced by the task's template.
    """

    card = MethodCard(
        name="ape",
        title="APE",
        paper="arXiv:2304.01195",
        inserts="classifier",
        summary="cache of chosen channels, weighted by agreement with the text",
        zero_shot_at={"alpha": 0.0},
    )

    class Config(PriorConfig):
        gamma: NonNegativeFloat = 0.1
        most_gamma: PositiveFloat = 0.5
        gamma_steps: PositiveInt = 5

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        config, cache = self.config, build_cache(data)
        text = backbone.zero_shot(data.labels)
        chosen = choose_channels(config, text, cache["keys"], data.train.targets)
        module = Module(stored=cache | {"channels": chosen})
        best = self._search(module, backbone, data)
        scalars = zip(("alpha", "beta", "gamma"), best, strict=True)
        return Module(stored=module.stored | {n: torch.tensor(v).to(text) for n, v in scalars})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        chosen = require_shape(module, "channels", backbone.embed_dim, "image features of size")
        values = require_shape(module, "values", len(labels), "a number of classes of")
        text, keys = backbone.zero_shot(labels), _within(module["keys"], chosen)
        alpha, beta, scale = module["alpha"], module["beta"], backbone.logit_scale
        divergence = _divergence(keys, _within(text, chosen), values)
        values = torch.exp(module["gamma"] * divergence)[:, None] * values

        def classify(features: Tensor) -> Tensor:
            features = F.normalize(features, dim=-1)
            affinity = _within(features, chosen) @ keys.T
            return scale * features @ text.T + alpha * torch.exp(-beta * (1 - affinity)) @ values

        return classify

    def _search(self, module: Module, backbone: Backbone, data: FewShotData) -> Sequence[float]:
        config, val, values, chosen = self.config, data.val, module["values"], module["channels"]
        if len(val) == 0:
            return config.alpha, config.beta, config.gamma
        features, text = F.normalize(val.plain, dim=-1), backbone.zero_shot(data.labels)
        keys = _within(module["keys"], chosen)
        divergence = _divergence(keys, _within(text, chosen), values)
        step = config.most_gamma / config.gamma_steps
        gammas = [i * step for i in range(config.gamma_steps)]
        alpha, beta, index = search_grid(
            config,
            backbone.logit_scale * features @ text.T,
            _within(features, chosen) @ keys.T,
            [torch.exp(gamma * divergence)[:, None] * values for gamma in gammas],
            val.targets,
        )
        return alpha, beta, gammas[index]


def choose_channels(
    config: PriorConfig, text: Tensor, keys: Tensor | None = None, targets: Tensor | None = None
) -> Tensor:
    """The channels with the largest J_k = −λ_1 S_k + λ_2 V_k, as a mask ``[e]`` (section 3.1).

    S_k is the mean product of channel k over pairs of features of different classes, among
    the text features ``[C, e]`` and, where given, the keys ``[N, e]`` with their labels;
    V_k is the variance of channel k over the text features.
    """
    sums, counts = text, torch.ones(len(text)).to(text)
    if keys is not None and targets is not None:
        sums = sums.index_add(0, targets, keys)
        counts = counts + targets.bincount(minlength=len(text))
    pairs = counts.sum() ** 2 - counts.square().sum()
    similarity = (sums.sum(0).square() - sums.square().sum(0)) / pairs
    criterion = config.variance_weight * text.var(0) - config.similarity_weight * similarity
    size = max(1, round(config.channels * len(criterion)))
    mask = torch.zeros_like(criterion, dtype=torch.bool)
    mask[criterion.topk(size).indices] = True
    return mask


def _within(features: Tensor, chosen: Tensor) -> Tensor:
    """Features ``[n, e]`` cut to the chosen channels and normalised again, ``[n, |Q|]``."""
    return F.normalize(features[:, chosen], dim=-1)


def _divergence(keys: Tensor, text: Tensor, values: Tensor) -> Tensor:
    """KL ``[N]`` of the keys' labels from what the text says of them, smoothed as published."""
    predicted = (keys @ text.T).softmax(-1)
    return (values * torch.log2((values + 1e-6) / (predicted + 1e-6))).sum(-1)


@torch.no_grad()
def search_grid(
    config: PriorConfig,
    text_logits: Tensor,
    affinity: Tensor,
    values: Sequence[Tensor],
    targets: Tensor,
) -> tuple[float, float, int]:
    """The first α and β, and the index of the values, that classify ``targets`` best.

    Args:
        text_logits: of the validation images, ``[n, C]``.
        affinity: of the validation images to the keys, ``[n, N]``.
        values: candidates for the values of the cache, each ``[N, C]``.
    """
    alphas = [
        0.1 + i * (config.most_alpha - 0.1) / config.alpha_steps for i in range(config.alpha_steps)
    ]
    betas = [
        0.1 + i * (config.most_beta - 0.1) / config.beta_steps for i in range(config.beta_steps)
    ]
    factors = torch.tensor(alphas)[:, None, None].to(text_logits)
    best, found = -1.0, (alphas[0], betas[0], 0)
    for beta in betas:
        weights = torch.exp(-beta * (1 - affinity))
        hits = [(text_logits + factors * (weights @ v)).argmax(-1) == targets for v in values]
        accuracies = torch.stack([hit.float().mean(-1) for hit in hits], dim=1)
        if (peak := float(accuracies.max())) > best:
            index = int(accuracies.argmax())
            best, found = peak, (alphas[index // len(values)], beta, index % len(values))
    return found
