"""ProText: prompts of the text tower, learned from texts alone.

Deep prompts are trained so that the feature of a class name comes near those of sentences about
the class. No image is seen in training, and the prompts serve any class names.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    CosineClassifier,
    FeatureSet,
    FewShotData,
    Labels,
    MethodCard,
    Module,
    require_blocks,
    require_shape,
)
from compatbench.method.trained import Batch, Recipe, TrainedMethod

from ._shared.prompts import draw_context


class ProText(TrainedMethod):
    """L = λ · mean over all entries of (t̂_c − t̂⁰)²: names learn the features of sentences.

    Khattak et al., *Learning to Prompt with Text Only Supervision for Vision-Language Models*,
    section 3.2. M learned vectors stand before the name, and are replaced before each of the
    next blocks, J = 9 in all. A training example is a class and one of its descriptions, with
    the frozen features t⁰. λ = 1000. The classifier is s · cos(f, t_c).

    In detail: no image is seen, so shots and views change nothing; a seed draws the prompts and
    the order. The authors set the rate (0.03 or 0.0025), the epochs (20 to 300) and M for each
    dataset. M = 4 starts at "a photo of a"; a longer context, without ``context_words``, starts
    at N(0, 0.02²), as the prompts of the inner blocks do. A tower of fewer blocks has prompts
    in all of them.
    """

    card = MethodCard(
        name="protext",
        title="ProText",
        paper="arXiv:2401.02418",
        inserts=("text-input", "text-layers"),
        summary="deep text prompts learned from descriptions, without images",
        needs={"descriptions"},
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(
            optimizer="adamw",
            lr=0.03,
            betas=(0.9, 0.98),
            weight_decay=0.1,
            epochs=200,
            batch_size=256,
            warmup_epochs=5,
        )
        context_length: PositiveInt = 4
        context_words: str | None = "a photo of a"
        depth: PositiveInt = 9
        weight: PositiveFloat = 1000.0

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        config = self.config
        length = config.context_length
        context = draw_context(backbone, length, config.context_words, self.card.name, rng)
        inner_blocks = min(config.depth, backbone.text.depth) - 1
        deep = 0.02 * torch.randn(inner_blocks, length, backbone.token_width, generator=rng)
        return Module(trained={"prompts": torch.cat([context[None], deep.to(context)])})

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        described = backbone.describe(data.labels)
        features = torch.cat(described)
        counts = torch.tensor([len(class_features) for class_features in described])
        classes = torch.arange(len(counts)).repeat_interleave(counts).to(features.device)
        # The training loop treats the sentences as it treats the images of other methods.
        sentences = FeatureSet(features, features[None], classes)
        return super().fit(backbone, replace(data, train=sentences), rng)

    def loss(self, classifier: CosineClassifier, batch: Batch) -> Tensor:
        class_features = classifier.weights[batch.targets]
        return self.config.weight * F.mse_loss(class_features, batch.features)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> CosineClassifier:
        prompts = require_shape(module, "prompts", backbone.token_width, "text tokens of width")
        require_blocks(len(prompts), backbone.text.depth, "text")
        context, *deep = prompts
        rows = backbone.prompts(labels, context, deep)
        return CosineClassifier(backbone.encode_prompts(rows), backbone.logit_scale)

    def contexts(self, module: Module, backbone: Backbone, labels: Labels) -> Tensor:
        return module["prompts"][0]
