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
    """Settings of a cache: its views, α and β before the search, and the grid of the search."""

    templates: Templates = "first"  # of the zero-shot weights
    # The keys are made from this many of the last training views, by default from all of them.
    # The other views are left for training.
    cache_views: PositiveInt | None = None

    alpha: NonNegativeFloat = 1.17
    beta: NonNegativeFloat = 1.0
    most_alpha: PositiveFloat = 3.0
    most_beta: PositiveFloat = 7.0
    alpha_steps: PositiveInt = 20
    beta_steps: PositiveInt = 200


class PriorConfig(CacheConfig):
    """Settings of a cache that compares only some channels of the features."""

    channels: Annotated[float, Field(gt=0, le=1)] = 500 / 1024
    similarity_weight: NonNegativeFloat = 0.7
    variance_weight: NonNegativeFloat = 0.3
    alpha: NonNegativeFloat = 2.0
    most_alpha: PositiveFloat = 7.0


def build_cache(data: FewShotData, views: int | None) -> dict[str, Tensor]:
    """Return normalised keys ``[N, e]`` and one-hot values ``[N, C]`` of the shots.

    A key is the mean of its shot's features over the last ``views`` training views.
    """
    keys = F.normalize(last_views(data, views).mean(0), dim=-1)
    values = F.one_hot(data.train.targets, len(data.labels)).to(keys)
    return {"keys": keys, "values": values}


def last_views(data: FewShotData, count: int | None) -> Tensor:
    """Return features of the last ``count`` training views, or of all, ``[views, N, e]``."""
    return data.train.views if count is None else data.train.views[-count:]


def cache_classifier(
    module: Module,
    backbone: Backbone,
    text: Tensor,
    affinity: Callable[[Tensor], Tensor],
    values: Tensor,
) -> Classifier:
    """Return the classifier z = s · f̂ Wᵀ + α · exp(−β (1 − A(f̂))) V of the module's α and β.

    Args:
        text: class weights W, ``[C, e]``.
        affinity: maps normalised features ``[n, e]`` to A, ``[n, N]``.
        values: V, ``[N, C]``.
    """
    alpha = module["alpha"]
    beta = module["beta"]
    scale = backbone.logit_scale

    def classify(features: Tensor) -> Tensor:
        features = F.normalize(features, dim=-1)
        weights = torch.exp(-beta * (1 - affinity(features)))
        return scale * features @ text.T + alpha * weights @ values

    return classify


def search_cache(
    module: Module, config: CacheConfig, backbone: Backbone, data: FewShotData
) -> Module:
    """Store in a module of keys and values the α and β that classify the validation set best."""
    features = F.normalize(data.val.plain, dim=-1)
    text = zero_shot(backbone, data.labels, config.templates)
    text_logits = backbone.logit_scale * features @ text.T
    affinity = features @ module["keys"].T
    alpha, beta, _ = search_grid(
        config, text_logits, affinity, [module["values"]], data.val.targets
    )
    return store(module, alpha=alpha, beta=beta)


def store(module: Module, **numbers: float) -> Module:
    """Return the module with more stored numbers, in the dtype and on the device of its tensors."""
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
    """Return the α, the β and the index of the values that classify ``targets`` best.

    Of several that are equally good, the first is returned. Without validation images, α and β
    are those of the settings, and the index is 0.

    Args:
        text_logits: zero-shot logits of the validation images, ``[n, C]``.
        affinity: affinity of the validation images to the keys, ``[n, N]``.
        values: candidates for the values of the cache, each ``[N, C]``.
        targets: labels of the validation images, ``[n]``.
    """
    if len(targets) == 0:
        return config.alpha, config.beta, 0
    alphas = _grid(config.most_alpha, config.alpha_steps)
    betas = _grid(config.most_beta, config.beta_steps)
    factors = torch.tensor(alphas)[:, None, None].to(text_logits)
    accuracies = []
    for beta in betas:
        weights = torch.exp(-beta * (1 - affinity))
        of_beta = []
        for candidate in values:
            logits = text_logits + factors * (weights @ candidate)
            hits = logits.argmax(-1) == targets
            of_beta.append(hits.float().mean(-1))
        accuracies.append(torch.stack(of_beta, dim=1))
    # The grid ``[betas, alphas, values]`` leaves the device in one copy. argmax gives the first
    # of several equal maxima.
    best = int(torch.stack(accuracies).cpu().argmax())
    beta_index, rest = divmod(best, len(alphas) * len(values))
    alpha_index, value_index = divmod(rest, len(values))
    return alphas[alpha_index], betas[beta_index], value_index


def _grid(largest: float, steps: int) -> list[float]:
    """Return ``steps`` evenly spaced numbers from 0.1 to just below ``largest``."""
    return [0.1 + i * (largest - 0.1) / steps for i in range(steps)]


def choose_channels(
    config: PriorConfig, text: Tensor, keys: Tensor | None = None, targets: Tensor | None = None
) -> Tensor:
    """Return a mask ``[e]`` of the channels with the largest J_k = −λ_1 S_k + λ_2 V_k.

    APE, section 3.1. S_k is the mean product of channel k over pairs of features of different
    classes. The features are the text features ``[C, e]`` and, if given, the keys ``[N, e]``
    with their labels. V_k is the variance of channel k over the text features.
    """
    sums = text
    counts = torch.ones(len(text)).to(text)
    if keys is not None and targets is not None:
        sums = sums.index_add(0, targets, keys)
        counts = counts + targets.bincount(minlength=len(text))
    # Products over all pairs, minus those within a class.
    pairs = counts.sum() ** 2 - counts.square().sum()
    similarity = (sums.sum(0).square() - sums.square().sum(0)) / pairs
    criterion = config.variance_weight * text.var(0) - config.similarity_weight * similarity
    size = max(1, round(config.channels * len(criterion)))
    mask = torch.zeros_like(criterion, dtype=torch.bool)
    mask[criterion.topk(size).indices] = True
    return mask
