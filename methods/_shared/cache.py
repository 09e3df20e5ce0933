"""Tip-Adapter's cache of the shots, the search for its settings, and APE's choice of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import Backbone, Classifier, FewShotData, MethodConfig, Module

from .texts import Templates, zero_shot


class CacheConfig(MethodConfig):
    """What makes the cache, α and β before the search, and the grid of the search."""

    templates: Templates = "first"  # of the zero-shot weights
    # The last so many training views make the keys, the others are for training; default: all.
    cache_views: PositiveInt | None = None

    alpha: NonNegativeFloat = 1.17
    beta: NonNegativeFloat = 1.0
    most_alpha: PositiveFloat = 3.0
    most_beta: PositiveFloat = 7.0
    alpha_steps: PositiveInt = 20
    beta_steps: PositiveInt = 200


class PriorConfig(CacheConfig):
    """The choice of channels, and the settings of a cache."""

    channels: Annotated[float, Field(gt=0, le=1)] = 500 / 1024
    similarity_weight: NonNegativeFloat = 0.7
    variance_weight: NonNegativeFloat = 0.3
    alpha: NonNegativeFloat = 2.0
    most_alpha: PositiveFloat = 7.0


def build_cache(data: FewShotData, views: int | None) -> dict[str, Tensor]:
    """Keys ``[N, e]``, normalised, and one-hot values ``[N, C]``, of the last so many views."""
    keys = F.normalize(last_views(data, views).mean(0), dim=-1)
    return {"keys": keys, "values": F.one_hot(data.train.targets, len(data.labels)).to(keys)}


def last_views(data: FewShotData, count: int | None) -> Tensor:
    """Features of the last so many training views, ``[views, N, e]``; of all by default."""
    return data.train.views if count is None else data.train.views[-count:]


def cache_classifier(
    module: Module,
    backbone: Backbone,
    text: Tensor,
    affinity: Callable[[Tensor], Tensor],
    values: Tensor,
) -> Classifier:
    """z = s · f̂ Wᵀ + α · exp(−β (1 − A(f̂))) V, with the module's α and β.

    Args:
        text: class weights W, ``[C, e]``.
        affinity: from normalised features ``[n, e]`` to A, ``[n, N]``.
        values: V, ``[N, C]``.
    """
    alpha, beta, scale = module["alpha"], module["beta"], backbone.logit_scale

    def classify(features: Tensor) -> Tensor:
        features = F.normalize(features, dim=-1)
        weights = torch.exp(-beta * (1 - affinity(features)))
        return scale * features @ text.T + alpha * weights @ values

    return classify


def search_cache(
    module: Module, config: CacheConfig, backbone: Backbone, data: FewShotData
) -> Module:
    """A module of keys and values with the α and β that classify the validation set best."""
    features = F.normalize(data.val.plain, dim=-1)
    text = zero_shot(backbone, data.labels, config.templates)
    alpha, beta, _ = search_grid(
        config,
        backbone.logit_scale * features @ text.T,
        features @ module["keys"].T,
        [module["values"]],
        data.val.targets,
    )
    return store(module, alpha=alpha, beta=beta)


def store(module: Module, **numbers: float) -> Module:
    """The module with numbers beside its tensors, of the type of the first."""
    first = next(iter((module.trained | module.stored).values()))
    tensors = {name: torch.tensor(value).to(first) for name, value in numbers.items()}
    return Module(module.trained, module.stored | tensors)


@torch.no_grad()
def search_grid(
    config: CacheConfig,
    text_logits: Tensor,
    affinity: Tensor,
    values: Sequence[Tensor],
    targets: Tensor,
) -> tuple[float, float, int]:
    """The first α and β, and the index of the values, that classify ``targets`` best.

    Without validation images they are those of the settings, and 0.

    Args:
        text_logits: of the validation images, ``[n, C]``.
        affinity: of the validation images to the keys, ``[n, N]``.
        values: candidates for the values of the cache, each ``[N, C]``.
    """
    if not len(targets):
        return config.alpha, config.beta, 0
    alphas = _grid(config.most_alpha, config.alpha_steps)
    betas = _grid(config.most_beta, config.beta_steps)
    factors = torch.tensor(alphas)[:, None, None].to(text_logits)
    accuracies = []
    for beta in betas:
        weights = torch.exp(-beta * (1 - affinity))
        hits = [(text_logits + factors * (weights @ v)).argmax(-1) == targets for v in values]
        accuracies.append(torch.stack([hit.float().mean(-1) for hit in hits], dim=1))
    index = int(torch.stack(accuracies).cpu().argmax())  # the first of the best, in one piece
    beta, rest = divmod(index, len(alphas) * len(values))
    return alphas[rest // len(values)], betas[beta], rest % len(values)


def _grid(most: float, steps: int) -> list[float]:
    return [0.1 + i * (most - 0.1) / steps for i in range(steps)]


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
