"""Tip-Adapter: the few shots become a key-value cache beside the zero-shot classifier.

The features of the shots are keys and their labels are values. An image is compared with all
keys, and the labels of those that are similar are added to its zero-shot logits; nothing is
trained.
"""

from __future__ import annotations

import torch

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

from ._shared.cache import CacheConfig, build_cache, cache_classifier, search_cache
from ._shared.texts import zero_shot


class TipAdapter(Method):
    """z = s · f̂ W_0ᵀ + α · exp(−β (1 − f̂ Gᵀ)) Y, without training.

    Zhang et al., *Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification*,
    equations 3 to 6. The keys G are the mean features of the shots over the training views,
    normalised; the values Y are their one-hot labels. α and β are chosen on the few-shot
    validation images and stored in the module; without validation images the initial values
    stay.
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
        cache = build_cache(data, self.config.cache_views)
        return search_cache(Module(stored=cache), self.config, backbone, data)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        keys = require_shape(module, "keys", backbone.embed_dim, "image features of size")
        values = require_shape(module, "values", len(labels), "a number of classes of")
        text = zero_shot(backbone, labels, self.config.templates)
        return cache_classifier(module, backbone, text, lambda features: features @ keys.T, values)
