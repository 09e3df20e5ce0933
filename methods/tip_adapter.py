"""Tip-Adapter: the few shots become a key-value cache beside the zero-shot classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    MethodConfig,
    Module,
    require_shape,
)


class CacheConfig(MethodConfig):
    """α and β before the search, and the grid of the search."""

    alpha: NonNegativeFloat = 1.17
    beta: NonNegativeFloat = 1.0
    most_alpha: PositiveFloat = 3.0
    most_beta: PositiveFloat = 7.0
    alpha_steps: PositiveInt = 20
    beta_steps: PositiveInt = 200


class TipAdapter(Method):
    """z = s · f̂ W_0ᵀ + α · exp(−β (1 − f̂ Gᵀ)) Y, without training.

    Zhang et al., *Tip-Adapter: Training-free Adaption of CLIP for Few-shot
    Classification*, equations 3 to 6. The keys G are the mean features of the shots
    over the training views, normalised; the values Y are their one-hot labels.

    The authors search α and β on the full validation set, and on the test set for
    ImageNet; here the search uses the few-shot validation split, and its choice is
    stored in the module. Without validation images the initial values stay.
    """

    card = MethodCard(
        name="tip_adapter",
        title="Tip-Adapter",
        paper="arXiv:2111.03930",
        inserts="classifier",
        summary="key-value cache of the shots added to zero-shot logits",
        zero_shot_at={"alpha": 0},
    )

    class Config(CacheConfig):
        pass

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        return search_cache(Module(stored=build_cache(data)), self.config, backbone, data)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        keys = require_shape(module, "keys", backbone.embed_dim, "image features of size")
        values = require_shape(module, "values", len(labels), "a number of classes of")
        text = backbone.zero_shot(labels)
        return cache_classifier(module, backbone, text, lambda f: f @ keys.T, values)


def build_cache(data: FewShotData) -> dict[str, Tensor]:
    """Keys ``[N, e]``, normalised, and one-hot values ``[N, C]``."""
    keys = F.normalize(data.train.views.mean(0), dim=-1)
    return {"keys": keys, "values": F.one_hot(data.train.targets, len(data.labels)).to(keys)}


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
    alpha, beta, _ = search_grid(
        config,
        backbone.logit_scale * features @ backbone.zero_shot(data.labels).T,
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
    best, found = -1.0, (config.alpha, config.beta, 0)
    alphas = _grid(config.most_alpha, config.alpha_steps)
    factors = torch.tensor(alphas)[:, None, None].to(text_logits)
    for beta in _grid(config.most_beta, config.beta_steps) if len(targets) else ():
        weights = torch.exp(-beta * (1 - affinity))
        hits = [(text_logits + factors * (weights @ v)).argmax(-1) == targets for v in values]
        accuracies = torch.stack([hit.float().mean(-1) for hit in hits], dim=1)
        if (peak := float(accuracies.max())) > best:
            index = int(accuracies.argmax())
            best, found = peak, (alphas[index // len(values)], beta, index % len(values))
    return found


def _grid(most: float, steps: int) -> list[float]:
    return [0.1 + i * (most - 0.1) / steps for i in range(steps)]
