"""Skip Tuning: the later blocks of both towers are trained; each image skips most distant classes.

Gradients flow only through blocks 7 and later of both towers, and only through the classes near an
image. Nothing is added to the model.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    CosineClassifier,
    FewShotData,
    ImageInput,
    Labels,
    MethodCard,
    Module,
)
from compatbench.method.trained import Batch, Recipe, TrainedMethod

from ._shared.texts import Template, select_texts
from ._shared.towers import late_blocks, shift_tower, zero_shift

# The first trained block of twelve, counted from 0.
FIRST = 6
# The decay of the probabilities ends at this multiple of its scale 1.
END = 5.0


class SkipTuning(TrainedMethod):
    """z = s cos(f_θ, t_θ), with the weights θ = θ_0 + Δ from block 7 of 12 on in both towers.

    Wu et al., *Skip Tuning: Pre-trained Vision-Language Models are Effective and Efficient
    Adapters Themselves*, section 4. Skipped layers: blocks 1 to ω = 6, and all before them, are
    frozen, so each image passes them only once. Last norms and projections are trained too. Skipped
    classes: the loss of an image is the cross-entropy over some of the C classes. Its own class
    is first, the others follow in the order of cos(f_θ, t_c⁰), with t⁰ of zero-shot. The first
    m = min(⌈C / 2⌉, 50) are kept. Of the C − m others, the one with the number j = 0, 1, ... is
    kept with the probability

        p_j = (exp(−x_j / λ) − exp(−5 / λ)) / (1 − exp(−5 / λ)),   x_j = 5 j / (C − m − 1),

    λ = 0.3. As in the authors' code, these ranks are drawn once for a fit. The module holds Δ. So
    it fits only towers with the same weights; EVA-CLIP's image towers have others. Towers of
    fewer than 12 blocks are trained from the middle of the smaller tower on.

    In detail: the authors take one list of classes for a batch, by the largest cosine of any of
    its images; with four shots or more, their batches have images of a single class.
    """

    card = MethodCard(
        name="skip_tuning",
        title="Skip Tuning",
        paper="arXiv:2412.11509",
        inserts=("text-layers", "image-layers"),
        summary="the later blocks of both towers, trained on classes near each image",
        zero_shot_at={"*": 0.0},
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(lr=1e-5, epochs=40, batch_size=4, warmup_epochs=0)
        kept_share: Annotated[float, Field(gt=0, le=1)] = 0.5
        most_kept: PositiveInt = 50
        decay: PositiveFloat = 0.3
        template: Template | None = None

    config: Config

    def image_input(self, backbone: Backbone) -> ImageInput:
        return ImageInput("hidden", block=late_blocks(backbone, FIRST).start)

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        start = late_blocks(backbone, FIRST).start
        text = zero_shift(backbone, "text", start)
        return Module(text | zero_shift(backbone, "image", start))

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        kept = self.draw_ranks(len(data.labels), rng).to(backbone.device)
        prompts = backbone.text_prompts(data.labels.fill(self.config.template))
        frozen_texts = backbone.zero_shot(data.labels, self.config.template)
        start = late_blocks(backbone, FIRST).start

        def loss(module: Module, batch: Batch) -> Tensor:
            weights = shift_tower(module, backbone, "image", start)
            features = backbone.image.encode(batch.inputs, block=start, weights=weights)
            chosen = choose_classes(features.detach(), frozen_texts, batch.targets, kept)
            # Only classes that an image of the batch has chosen are encoded.
            rows = chosen.any(0).cpu().nonzero()[:, 0]
            classes = rows.to(backbone.device)
            weights = shift_tower(module, backbone, "text", start)
            texts = backbone.encode_prompts(select_texts(prompts, rows), weights)
            logits = CosineClassifier(texts, backbone.logit_scale)(features)
            logits = logits.masked_fill(~chosen[:, classes], -torch.inf)
            return F.cross_entropy(logits, torch.searchsorted(classes, batch.targets))

        return self.train(self.init(backbone, data, rng), loss, backbone, data, rng)

    def draw_ranks(self, classes: int, rng: torch.Generator) -> Tensor:
        """Draw the ranks of classes that are kept in the loss: True or False for each, ``[C]``."""
        first = min(math.ceil(self.config.kept_share * classes), self.config.most_kept)
        decay = torch.exp(-torch.linspace(0, END, classes - first) / self.config.decay)
        lowest = math.exp(-END / self.config.decay)
        probabilities = (decay - lowest) / (1 - lowest)
        others = torch.rand(classes - first, generator=rng) < probabilities
        return torch.cat([torch.ones(first, dtype=torch.bool), others])

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        start = late_blocks(backbone, FIRST).start
        prompts = backbone.text_prompts(labels.fill(self.config.template))
        texts = backbone.encode_prompts(prompts, shift_tower(module, backbone, "text", start))
        compare = CosineClassifier(texts, backbone.logit_scale)
        weights = shift_tower(module, backbone, "image", start)
        return lambda tokens: compare(backbone.image.encode(tokens, block=start, weights=weights))


def choose_classes(features: Tensor, texts: Tensor, targets: Tensor, kept: Tensor) -> Tensor:
    """Return for each image the classes whose ranks are kept, ``[batch, C]``.

    Args:
        features: image features, not normalised, ``[batch, e]``.
        texts: zero-shot's normalised text features, ``[C, e]``.
        targets: the images' own classes, which have the first rank.
        kept: True for each rank that is kept, ``[C]``.
    """
    cosines = F.normalize(features, dim=-1) @ texts.T
    cosines = cosines.scatter(1, targets[:, None], torch.inf)
    order = cosines.argsort(dim=1, descending=True)
    return torch.zeros_like(cosines, dtype=torch.bool).scatter(1, order, kept.expand_as(order))
