"""CoPrompt: MaPLe with adapters, held near the frozen model under other words and views.

An adapter behind each tower is added to MaPLe's prompts. A loss holds the features near those that
the frozen model gives for another view of the image and another text of the class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from compatbench.method import Backbone, FewShotData, Labels, MethodCard, Module, require_shape
from compatbench.method.trained import Batch, Recipe

from ._shared.layers import adapt, draw_linear
from ._shared.towers import PromptedClassifier
from .maple import MaPLe


class CoPrompt(MaPLe):
    """MaPLe, an adapter behind each tower, and a consistency loss.

    Roy and Etemad, *Consistency-guided Prompt Learning for Vision-Language Models*, section
    3.2: f' = α_f A_f(f) + (1 − α_f) f and t' = α_t A_t(t) + (1 − α_t) t, where A is
    CLIP-Adapter's bottleneck ReLU(W_2 ReLU(W_1 ·)), α_f = 0.1, α_t = 0.2, and L = L_ce + λ ·
    [mean_c(1 − cos(t'_c, t⁰_c)) + mean_i(1 − cos(f'_i, f⁰_i))]. f⁰ is the frozen tower's
    feature of another view of the image. t⁰ is that of another text: each step draws one
    template for all classes. With a single training view, as in suite ``mini``, the other view
    is the same one, so only the texts differ. λ = 1; the authors choose λ between 0.1 and 8,
    and the prompts' length and depth, for each task.
    """

    card = MethodCard(
        name="coprompt",
        title="CoPrompt",
        paper="arXiv:2306.01195",
        inserts=("text-input", "text-layers", "image-layers", "feature"),
        summary="MaPLe with adapters, consistent under other texts and views",
    )

    class Config(MaPLe.Config):
        recipe: Recipe = Recipe(lr=3.5e-3, epochs=8, batch_size=4)
        reduction: PositiveInt = 4
        image_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
        text_ratio: Annotated[float, Field(ge=0, le=1)] = 0.2
        weight: NonNegativeFloat = 1.0

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        module = super().init(backbone, data, rng)
        size = backbone.embed_dim
        hidden = size // self.config.reduction
        for tower in ("image", "text"):
            module.trained[f"{tower}_down"] = draw_linear((hidden, size), size, rng)
            module.trained[f"{tower}_up"] = draw_linear((size, hidden), hidden, rng)
        return module.to(backbone.device)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> AdaptedClassifier:
        require_shape(module, "image_down", backbone.embed_dim, "image features of size")
        text = self.text_features(module, backbone, labels)
        text = adapt(text, module["text_down"], module["text_up"], self.config.text_ratio)
        adapter = partial(
            adapt, down=module["image_down"], up=module["image_up"], ratio=self.config.image_ratio
        )
        return AdaptedClassifier(text, backbone, self.insert(module, backbone), adapter)

    def loss(self, classifier: AdaptedClassifier, batch: Batch) -> Tensor:
        features = classifier.encode(batch.inputs)
        entropy = F.cross_entropy(classifier.classify(features), batch.targets)
        templates = batch.labels.templates
        drawn = int(torch.randint(len(templates), (), generator=batch.rng))
        frozen_text = batch.backbone.zero_shot(batch.labels, templates[drawn])
        frozen_image = batch.features if batch.other_view is None else batch.other_view
        text_loss = 1 - (classifier.weights * frozen_text).sum(-1).mean()
        image_loss = 1 - F.cosine_similarity(features, frozen_image).mean()
        return entropy + self.config.weight * (text_loss + image_loss)


class AdaptedClassifier(PromptedClassifier):
    """A prompted classifier whose image features ``[n, e]`` pass through an adapter."""

    def __init__(
        self,
        weights: Tensor,
        backbone: Backbone,
        prompts: Sequence[Tensor],
        adapter: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(weights, backbone, prompts)
        self._adapter = adapter

    def encode(self, inputs: Tensor) -> Tensor:
        return self._adapter(super().encode(inputs))
