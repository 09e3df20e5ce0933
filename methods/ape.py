"""APE: a cache over the channels that separate classes, its values weighted by the text.

Only the channels of the image feature in which classes differ most are kept, and Tip-Adapter's
cache of shots is compared within them. A cached shot counts the more, the less the text classifier
agrees with its label; nothing is trained.
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

from ._shared.cache import (
    PriorConfig,
    build_cache,
    cache_classifier,
    choose_channels,
    search_grid,
    store,
)
from ._shared.texts import zero_shot


class APE(Method):
    """z = s · f̂ W_0ᵀ + α · exp(−β (1 − f̂_Q G_Qᵀ)) diag(exp(γ KL)) Y, without training.

    Zhu et al., *Not All Features Matter: Enhancing Few-shot CLIP with Adaptive Prior
    Refinement*, sections 3.1 and 3.2. G and Y are the keys and values of Tip-Adapter's cache. Q
    is the set of channels in which classes differ most (``choose_channels``): the authors keep
    500 of ResNet-50's 1,024 for ImageNet. Features, keys and text are normalised again within
    Q. KL_i = Σ Y_i log₂(Y_i / softmax(G_Q W_Qᵀ)_i) measures how far the text classifier
    disagrees with the label of key i.

    α, β and γ are chosen on the few-shot validation images and stored with Q. KL comes from the
    current model's text.
    """

    card = MethodCard(
        name="ape",
        title="APE",
        paper="arXiv:2304.01195",
        inserts="classifier",
        summary="cache of chosen channels, weighted by the text",
        zero_shot_at={"alpha": 0.0},
    )

    class Config(PriorConfig):
        gamma: NonNegativeFloat = 0.1
        most_gamma: PositiveFloat = 0.5
        gamma_steps: PositiveInt = 5

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        config = self.config
        cache = build_cache(data, config.cache_views)
        values = cache["values"]
        text = zero_shot(backbone, data.labels, config.templates)
        chosen = choose_channels(config, text, cache["keys"], data.train.targets)
        keys = _within(cache["keys"], chosen)
        divergence = _divergence(keys, _within(text, chosen), values)
        gammas = [config.gamma]
        if len(data.val):
            step = config.most_gamma / config.gamma_steps
            gammas = [i * step for i in range(config.gamma_steps)]
        features = F.normalize(data.val.plain, dim=-1)
        text_logits = backbone.logit_scale * features @ text.T
        affinity = _within(features, chosen) @ keys.T
        weighted_values = [torch.exp(gamma * divergence)[:, None] * values for gamma in gammas]
        alpha, beta, index = search_grid(
            config, text_logits, affinity, weighted_values, data.val.targets
        )
        module = Module(stored=cache | {"channels": chosen})
        return store(module, alpha=alpha, beta=beta, gamma=gammas[index])

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        chosen = require_shape(module, "channels", backbone.embed_dim, "image features of size")
        values = require_shape(module, "values", len(labels), "a number of classes of")
        text = zero_shot(backbone, labels, self.config.templates)
        keys = _within(module["keys"], chosen)
        divergence = _divergence(keys, _within(text, chosen), values)
        values = torch.exp(module["gamma"] * divergence)[:, None] * values

        def affinity(features: Tensor) -> Tensor:
            return _within(features, chosen) @ keys.T

        return cache_classifier(module, backbone, text, affinity, values)


def _within(features: Tensor, chosen: Tensor) -> Tensor:
    """Return the chosen channels of features ``[n, e]``, normalised again, ``[n, |Q|]``."""
    return F.normalize(features[:, chosen], dim=-1)


def _divergence(keys: Tensor, text: Tensor, values: Tensor) -> Tensor:
    """Return KL ``[N]`` of the keys' labels from the text classifier's answers.

    Both distributions are smoothed by 1e-6, as in the authors' code.
    """
    predicted = (keys @ text.T).softmax(-1)
    return (values * torch.log2((values + 1e-6) / (predicted + 1e-6))).sum(-1)
