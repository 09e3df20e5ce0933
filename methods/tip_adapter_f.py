"""Tip-Adapter-F: the cache of Tip-Adapter, with fine-tuned keys.

The keys of the cache start at the features of the shots and are trained by gradient descent. The
values stay the labels, and the zero-shot logits are added as in Tip-Adapter.
"""

from __future__ import annotations

import torch

from compatbench.method import Backbone, FewShotData, MethodCard, Module
from compatbench.method.trained import Recipe, TrainedMethod

from ._shared.cache import CacheConfig, build_cache, search_cache, store
from .tip_adapter import TipAdapter


class TipAdapterF(TrainedMethod, TipAdapter):
    """Tip-Adapter with trainable keys; the values stay one-hot.

    Zhang et al., *Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification*,
    section 3.3. α and β are chosen after training, as in Tip-Adapter.
    """

    card = MethodCard(
        name="tip_adapter_f",
        title="Tip-Adapter-F",
        paper="arXiv:2111.03930",
        inserts="classifier",
        summary="Tip-Adapter with trained keys",
        zero_shot_at={"alpha": 0},
    )

    class Config(TrainedMethod.Config, CacheConfig):
        recipe: Recipe = Recipe(
            optimizer="adamw",
            lr=1e-3,
            eps=1e-4,
            weight_decay=0.01,
            epochs=20,
            batch_size=256,
            schedule="cosine-step",
        )

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        cache = build_cache(data, self.config.cache_views)
        module = Module({"keys": cache["keys"].clone()}, {"values": cache["values"]})
        return store(module, alpha=self.config.alpha, beta=self.config.beta)

    def finish(self, module: Module, backbone: Backbone, data: FewShotData) -> Module:
        return search_cache(module, self.config, backbone, data)
