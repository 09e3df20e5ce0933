"""APE-T: APE's cache and text classifier share a learned residual for each class.

The residual is zero except in the chosen channels. It is added to the class's text feature and to
the cached shots of that class, and trained on the shots with one weight for each cached shot.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    FewShotData,
    Labels,
    MethodCard,
    Module,
    require_shape,
)
from compatbench.method.trained import Recipe, TrainedMethod

from ._shared.cache import (
    PriorConfig,
    build_cache,
    cache_classifier,
    choose_channels,
    search_grid,
    store,
)
from ._shared.texts import zero_shot


class APET(TrainedMethod):
    """z = s · f̂ (W_0 + R)ᵀ + α · exp(−β (1 − f̂ (G + Y R)ᵀ)) diag(u) Y.

    Zhu et al., *Not All Features Matter: Enhancing Few-shot CLIP with Adaptive Prior
    Refinement*, section 3.3. R is a residual for each class, learned from zero in the channels
    Q (chosen from the text alone) and zero elsewhere. A class's text and its keys share it. u
    weighs the keys and starts at one. Neither keys nor text are normalised again. α and β are
    chosen after training, on the few-shot validation images.
    """

    card = MethodCard(
        name="ape_t",
        title="APE-T",
        paper="arXiv:2304.01195",
        inserts="classifier",
        summary="residual shared by text weights and cache keys",
        zero_shot_at={"residual": 0.0, "alpha": 0.0},
    )

    class Config(TrainedMethod.Config, PriorConfig):
        recipe: Recipe = Recipe(
            optimizer="adamw",
            lr=1e-3,
            eps=1e-3,
            weight_decay=0.1,
            epochs=20,
            batch_size=256,
            schedule="cosine-step",
        )
        similarity_weight: NonNegativeFloat = 0.2
        variance_weight: NonNegativeFloat = 0.8

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        config = self.config
        text = zero_shot(backbone, data.labels, config.templates)
        cache = build_cache(data, config.cache_views)
        channels = choose_channels(config, text)
        trained = {
            "residual": torch.zeros(len(text), int(channels.sum())).to(text),
            "value_weights": torch.ones(len(data.train)).to(text),
        }
        module = Module(trained, cache | {"channels": channels})
        return store(module, alpha=config.alpha, beta=config.beta)

    def finish(self, module: Module, backbone: Backbone, data: FewShotData) -> Module:
        zero_shot_text = zero_shot(backbone, data.labels, self.config.templates)
        text, keys, values = _refine(module, zero_shot_text)
        features = F.normalize(data.val.plain, dim=-1)
        text_logits = backbone.logit_scale * features @ text.T
        affinity = features @ keys.T
        alpha, beta, _ = search_grid(self.config, text_logits, affinity, [values], data.val.targets)
        return store(module, alpha=alpha, beta=beta)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        require_shape(module, "channels", backbone.embed_dim, "image features of size")
        require_shape(module, "values", len(labels), "a number of classes of")
        zero_shot_text = zero_shot(backbone, labels, self.config.templates)
        text, keys, values = _refine(module, zero_shot_text)
        return cache_classifier(module, backbone, text, lambda features: features @ keys.T, values)


def _refine(module: Module, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the learned text weights ``[C, e]``, keys ``[N, e]`` and values ``[N, C]``."""
    # A stable sort puts the chosen channels first. The residual's width is their number, so the
    # program need not wait for the device to count them.
    order = module["channels"].logical_not().byte().argsort(stable=True)
    channels = order[: module["residual"].shape[1]]
    residual = torch.zeros_like(text).index_copy(1, channels, module["residual"])
    keys = module["keys"] + module["values"] @ residual
    values = module["value_weights"][:, None] * module["values"]
    return text + residual, keys, values
