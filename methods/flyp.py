"""FLYP: both towers are trained with the contrastive loss that CLIP was pretrained with.

Images are paired with prompts that contain their class name, and both towers learn to match the
pairs. The trained text tower then gives the class weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone.text.prompts import Prompts, pad_rows
from compatbench.method import (
    FEATURES,
    PIXELS,
    Backbone,
    Classifier,
    CosineClassifier,
    FewShotData,
    ImageInput,
    Labels,
    MethodCard,
    Module,
    NotTransferable,
    require_shape,
)
from compatbench.method.trained import Batch, Recipe, TrainedMethod

from ._shared.texts import Templates, choose_templates, select_texts
from ._shared.towers import Tower, shift_tower, zero_shift


class FLYP(TrainedMethod):
    """z = s_θ cos(f_θ, w_c), with all weights θ = θ_0 + Δ of both towers and the scale s trained.

    Goyal et al., *Finetune like you pretrain*, section 3. Each image i of a batch is paired
    with a text T_i: the name of its class in a random one of the task's templates. The loss is
    ½ [CE over rows + CE over columns] of s F̂ T̂ᵀ, where the diagonal is right; other images of
    the same class count as negatives. w_c is the normalised mean over templates of the trained
    tower's normalised text features. The module holds Δ and the difference of log s.

    In detail: with ``encoder`` only one tower is trained. An imported module also holds the
    differences of token embeddings and positions (``embeddings``), which stay frozen here.
    """

    card = MethodCard(
        name="flyp",
        title="FLYP",
        paper="arXiv:2212.00638",
        inserts=("text-layers", "image-layers", "classifier"),
        summary="both towers, trained with the contrastive loss",
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(
            optimizer="adamw",
            lr=1e-5,
            weight_decay=0.2,
            epochs=20,
            batch_size=256,
            warmup_epochs=0,
            schedule="cosine-step",
        )
        encoder: Literal["text", "image", "both"] = "both"
        templates: Templates = "all"

    config: Config

    def image_input(self, backbone: Backbone) -> ImageInput:
        return FEATURES if self.config.encoder == "text" else PIXELS

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        trained = {"log_scale": torch.zeros((), device=backbone.device)}
        for tower in self.trained_towers:
            trained |= zero_shift(backbone, tower)
        return Module(trained)

    @property
    def trained_towers(self) -> tuple[Tower, ...]:
        return ("text", "image") if self.config.encoder == "both" else (self.config.encoder,)

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        templates = choose_templates(data.labels, self.config.templates)
        # The prompts of a step are chosen on the CPU, so that no step waits for the device.
        targets = data.train.targets.cpu()

        def loss(module: Module, batch: Batch) -> Tensor:
            assert batch.rows is not None
            drawn = torch.randint(len(templates), batch.rows.shape, generator=rng)
            pairs = drawn * len(data.labels) + targets[batch.rows]
            return self.contrast(self.tune(module, backbone, data.labels), batch, pairs)

        start = self.init(backbone, data, rng)
        return self.train(start, loss, backbone, data, rng)

    def contrast(self, tuned: Tuned, batch: Batch, pairs: Tensor) -> Tensor:
        """Return the contrastive loss of a batch.

        Args:
            pairs: the number of each image's text, on the CPU, ``[batch]``.
        """
        # Each text is encoded once, though several images may be paired with it.
        numbers, where = pairs.unique(return_inverse=True)
        texts = tuned.encode_texts(numbers)[where.to(batch.targets.device, non_blocking=True)]
        compare = CosineClassifier(texts, tuned.scale)
        logits = compare(tuned.encode_images(batch.inputs))
        diagonal = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2

    def tune(self, module: Module, backbone: Backbone, labels: Labels) -> Tuned:
        """Return the backbone with the module's differences added to its towers and scale."""
        texts = []
        for template in choose_templates(labels, self.config.templates):
            texts.extend(labels.fill(template))
        scale = backbone.logit_scale * module["log_scale"].exp()
        shifted: dict[Tower, Mapping[str, Tensor]] = {}
        for tower in self.trained_towers:
            shifted[tower] = shift_tower(module, backbone, tower)
        prompts = shift_prompts(module, backbone, tuple(texts))
        return Tuned(backbone, tuple(texts), scale, shifted, prompts)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        tuned = self.tune(module, backbone, labels)
        texts = F.normalize(tuned.encode_texts(), dim=-1)
        means = texts.unflatten(0, (-1, len(labels))).mean(0)
        compare = CosineClassifier(means, tuned.scale)
        return lambda inputs: compare(tuned.encode_images(inputs))


@dataclass(frozen=True)
class Tuned:
    """A backbone with other weights in one tower or both, and another scale s."""

    backbone: Backbone
    texts: tuple[str, ...]  # all class names in one template, then in the next, ``[T · C]``
    scale: Tensor
    weights: Mapping[Tower, Mapping[str, Tensor]]
    prompts: Prompts

    def encode_texts(self, rows: Tensor | None = None) -> Tensor:
        """Return features of the texts with the numbers ``rows``, not normalised, ``[rows, e]``.

        By default all texts are encoded. ``rows`` is on the CPU.
        """
        prompts = self.prompts
        if rows is not None:
            prompts = select_texts(prompts, rows)
        return self.backbone.encode_prompts(prompts, self.weights.get("text"))

    def encode_images(self, inputs: Tensor) -> Tensor:
        """Return image features, not normalised, ``[batch, e]``."""
        if "image" not in self.weights:
            return inputs
        return self.backbone.image.encode(inputs, weights=self.weights["image"])


def shift_prompts(module: Module, backbone: Backbone, texts: tuple[str, ...]) -> Prompts:
    """Return texts as prompts, with the module's differences added to their rows.

    The differences are those of token embeddings and positions; only an imported module has them.

    Raises:
        NotTransferable: the backbone has other tokens, or another number of positions.
    """
    prompts = backbone.text_prompts(texts)
    if "embeddings.tokens" not in module.trained:
        return prompts
    positions = require_shape(
        module, "embeddings.positions", backbone.text.context_length, "texts of", dim=0
    )
    tokens = require_shape(
        module, "embeddings.tokens", backbone.token_width, "text tokens of width"
    )
    around = backbone.text_tokens
    ids = [[*around.start, *backbone.tokens(text), *around.end] for text in texts]
    largest = max(max(row) for row in ids)
    if largest >= len(tokens):
        raise NotTransferable(f"the module was made for {len(tokens)} tokens, and this has others")
    shared = prompts.shared
    rest = pad_rows([row[shared:] for row in ids]).to(tokens.device)
    return replace(
        prompts,
        prefix=prompts.prefix + tokens[ids[0][:shared]] + positions[:shared],
        suffix=prompts.suffix + tokens[rest] + positions[shared : shared + rest.shape[1]],
    )
