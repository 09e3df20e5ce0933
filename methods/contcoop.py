"""ContCoOp: prompts that attend to the class names, and so follow an upgraded text tower.

Learned prompt vectors attend to the embedding of the class name, so that each class has its own
context. On an upgraded model the class embedding is the new model's, and the context changes with
it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from compatbench.errors import CompatbenchError
from compatbench.method import (
    Backbone,
    CosineClassifier,
    FewShotData,
    Labels,
    MethodCard,
    Module,
    require_shape,
)
from compatbench.method.trained import Batch, Recipe, TrainedMethod

from ._shared.prompts import draw_context, teacher_distance


class ContCoOp(TrainedMethod):
    """One attention layer mixes N learnable prompts with the class embedding.

    Wang et al., *Towards Compatible Fine-tuning for Vision-Language Model Updates*. With U_c =
    [p; E_c], the context of class c is p plus the first N rows of softmax(U_c W_q (U_c W_k)ᵀ /
    √D) U_c W_v, at the text encoder's input. L = L_ce + λ · L_kd, the distillation of KgCoOp.
    On another backbone E_c is that backbone's, so the context changes with it.

    In detail: the paper leaves several points open, and its λ, schedule and code were not
    available. The defaults are KgCoOp's recipe, start words and teacher. Each other reading of
    the paper is a setting:

    * ``class_embedding``: the token embeddings of the class name (``tokens``, as in the paper's
      formula), their ``mean``, or the zero-shot ``feature`` of the class, brought to D by a
      learned ``projection`` (as in its critical path).
    * ``residual`` adds p. The paper's formula has no residual. But without one all N rows are
      nearly the same mean of values, and the paper compares N = 4, 8, 16.
    * ``initialisation``: the paper's "Kaiming" is a normal of variance 2/D (``kaiming``) or
      uniform within ±1/√D (``linear``). ``xavier`` (1/D) and ``normal`` (0.02²) are also
      available. ``biases`` adds those of a linear layer, except for keys, where a bias would
      not change the softmax.
    * ``context_words``: the words at which the prompts start; null draws them from N(0, 0.02²).
    * ``heads``, each of width D/heads; ``attention`` of the prompts to all of U_c (``self``),
      to E_c alone (``cross``) or to each other (``prompts``); ``output_projection``, a matrix
      behind the heads.
    """

    card = MethodCard(
        name="contcoop",
        title="ContCoOp",
        paper="arXiv:2412.20895",
        inserts="text-input",
        summary="prompts that attend to class names",
        version=2,
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(batch_size=128, epochs=100)
        context_length: PositiveInt = 4
        context_words: str | None = "a photo of a"
        weight: NonNegativeFloat = 8.0
        class_embedding: Literal["tokens", "mean", "feature"] = "tokens"
        residual: bool = True
        initialisation: Literal["kaiming", "linear", "xavier", "normal"] = "kaiming"
        biases: bool = False
        heads: PositiveInt = 1
        attention: Literal["self", "cross", "prompts"] = "self"
        output_projection: bool = False

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        config = self.config
        width = backbone.token_width
        if width % config.heads:
            raise CompatbenchError(
                f"method '{self.card.name}': {config.heads} heads do not divide a width of {width}"
            )
        prompts = draw_context(
            backbone, config.context_length, config.context_words, self.card.name, rng
        )
        tensors = {"prompts": prompts}
        input_sizes: dict[str, int] = {"query": width, "key": width, "value": width}
        if config.output_projection:
            input_sizes["output"] = width
        if config.class_embedding == "feature":
            input_sizes["projection"] = backbone.embed_dim
        for layer, size in input_sizes.items():
            tensors[layer] = self._draw(size, width, rng)
            if config.biases and layer != "key":
                bound = size**-0.5
                tensors[f"{layer}_bias"] = bound * (2 * torch.rand(width, generator=rng) - 1)
        return Module(tensors).to(backbone.device)

    def _draw(self, inputs: int, outputs: int, rng: torch.Generator) -> Tensor:
        """Draw a matrix ``[inputs, outputs]`` by the setting ``initialisation``."""
        if self.config.initialisation == "linear":
            return (2 * torch.rand(inputs, outputs, generator=rng) - 1) / math.sqrt(inputs)
        scales = {"kaiming": math.sqrt(2 / inputs), "xavier": math.sqrt(1 / inputs), "normal": 0.02}
        return torch.randn(inputs, outputs, generator=rng) * scales[self.config.initialisation]

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> CosineClassifier:
        prompts = backbone.prompts(labels, self.contexts(module, backbone, labels))
        return CosineClassifier(backbone.encode_prompts(prompts), backbone.logit_scale)

    def contexts(self, module: Module, backbone: Backbone, labels: Labels) -> Tensor:
        """Return the context of every class, ``[C, N, D]``."""
        prompts = require_shape(module, "prompts", backbone.token_width, "text tokens of width")
        names, padding = self._embed_classes(module, backbone, labels)
        # The rows that the prompts attend to, [C, n, D], and which of them are padding, [C, n].
        rows = names
        if self.config.attention == "prompts":
            rows = prompts.expand(len(labels), -1, -1)
            padding = padding.new_zeros(rows.shape[:2])
        elif self.config.attention == "self":
            rows = torch.cat([prompts.expand(len(labels), -1, -1), names], dim=1)
            padding = F.pad(padding, (len(prompts), 0))
        queries = _linear(module, "query", prompts).chunk(self.config.heads, -1)
        keys = _linear(module, "key", rows).chunk(self.config.heads, -1)
        values = _linear(module, "value", rows).chunk(self.config.heads, -1)
        heads = []
        for query, key, value in zip(queries, keys, values, strict=True):
            scores = query @ key.mT / math.sqrt(query.shape[-1])
            weights = scores.masked_fill(padding[:, None], -torch.inf).softmax(-1)
            heads.append(weights @ value)
        context = torch.cat(heads, dim=-1)
        if self.config.output_projection:
            context = _linear(module, "output", context)
        return context + prompts if self.config.residual else context

    def _embed_classes(
        self, module: Module, backbone: Backbone, labels: Labels
    ) -> tuple[Tensor, Tensor]:
        """Return the class embeddings E_c, ``[C, n, D]``, and a mask of padding, ``[C, n]``."""
        if self.config.class_embedding == "feature":
            require_shape(module, "projection", backbone.embed_dim, "text features of size", dim=0)
            features = backbone.zero_shot(labels, labels.teacher_template)
            rows = _linear(module, "projection", features)[:, None]
            return rows, torch.zeros(rows.shape[:2], dtype=torch.bool, device=rows.device)
        names, lengths = backbone.name_tokens(labels)
        counts, padding = _padding(lengths, names.shape[1], names.device)
        if self.config.class_embedding == "tokens":
            return names, padding
        means = names.masked_fill(padding[..., None], 0).sum(1) / counts
        return means[:, None], padding[:, :1]

    def loss(self, classifier: CosineClassifier, batch: Batch) -> Tensor:
        distance = teacher_distance(classifier, batch)
        return super().loss(classifier, batch) + self.config.weight * distance


@lru_cache(maxsize=8)
def _padding(lengths: tuple[int, ...], width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the lengths of rows, ``[C, 1]``, and a mask of the columns behind them, ``[C, n]``.

    They are cached, because a fit needs them at every step.
    """
    counts = torch.tensor(lengths, device=device)[:, None]
    return counts, torch.arange(width, device=device) >= counts


def _linear(module: Module, layer: str, x: Tensor) -> Tensor:
    """Return x W + b, or x W if the layer has no bias."""
    bias = f"{layer}_bias"
    if bias in module.tensors:
        return x @ module[layer] + module[bias]
    return x @ module[layer]
