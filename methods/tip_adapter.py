"""Tip-Adapter: the few shots become a key-value cache beside the zero-shot classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    FeatureSet,
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
        module = Module(stored=build_cache(data) | weights(self.config, backbone))
        return search_weights(module, self.config, backbone, data.labels, data.val)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        return attach_cache(module, backbone, labels)


def build_cache(data: FewShotData) -> dict[str, Tensor]:
    """Keys ``[N, e]``, normalised, and one-hot values ``[N, C]``."""
    keys = F.normalize(data.train.views.mean(0), dim=-1)
    return {"keys": keys, "values": F.one_hot(data.train.targets, len(data.labels)).to(keys)}


def weights(config: CacheConfig, backbone: Backbone) -> dict[str, Tensor]:
    """α and β before the search, as tensors of the module."""
    device = backbone.device
    return {
        "alpha": torch.tensor(config.alpha, device=device),
        "beta": torch.tensor(config.beta, device=device),
    }


def attach_cache(module: Module, backbone: Backbone, labels: Labels) -> Classifier:
    """The cache's logits added to those of the backbone's own zero-shot classifier."""
    keys = require_shape(module, "keys", backbone.embed_dim, "image features of size")
    values = require_shape(module, "values", len(labels), "a number of classes of")
    alpha, beta, scale = module["alpha"], module["beta"], backbone.logit_scale
    text = backbone.zero_shot(labels)

    def classify(features: Tensor) -> Tensor:
        features = F.normalize(features, dim=-1)
        affinity = features @ keys.T
        return scale * features @ text.T + alpha * torch.exp(-beta * (1 - affinity)) @ values

    return classify


@torch.no_grad()
def search_weights(
    module: Module, config: CacheConfig, backbone: Backbone, labels: Labels, val: FeatureSet
) -> Module:
    """The module with the α and β that classify the few-shot validation set best."""
    if len(val) == 0:
        return module
    features = F.normalize(val.plain, dim=-1)
    text_logits = backbone.logit_scale * features @ backbone.zero_shot(labels).T
    distance = 1 - features @ module["keys"].T
    best, chosen = -1.0, (config.alpha, config.beta)
    alphas = _grid(config.most_alpha, config.alpha_steps)
    for beta in _grid(config.most_beta, config.beta_steps):
        cache_logits = torch.exp(-beta * distance) @ module["values"]
        logits = text_logits + torch.tensor(alphas)[:, None, None].to(text_logits) * cache_logits
        accuracies = (logits.argmax(-1) == val.targets).float().mean(-1)
        if (peak := float(accuracies.max())) > best:
            best, chosen = peak, (alphas[int(accuracies.argmax())], beta)
    alpha, beta = (torch.tensor(value, device=backbone.device) for value in chosen)
    return Module(module.trained, module.stored | {"alpha": alpha, "beta": beta})


def _grid(most: float, steps: int) -> list[float]:
    return [0.1 + i * (most - 0.1) / steps for i in range(steps)]
