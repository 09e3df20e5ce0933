"""ContCoOp: prompts that attend to the class names, and so follow an upgraded text tower.

Learned prompt vectors attend to the embedding of the class name, so that each class has a
context of its own. On an upgraded model the class embedding is the new model's, and the context
changes with it.
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

    Wang et al., *Towards Compatible Fine-tuning for Vision-Language Model Updates*. With
    U_c = [p; E_c], the context of class c is p plus the first N rows of
    softmax(U_c W_q (U_c W_k)ᵀ / √D) U_c W_v, at the text encoder's input. L = L_ce + λ · L_kd, the
    distillation of KgCoOp. On another backbone E_c is that backbone's, so the context changes
    with it.

    The paper's words leave this open, and its λ, schedule and code could not be read. The defaults
    are KgCoOp's recipe, start words and teacher ("distillation ... as KgCoOp does"); each other
    reading is a setting:

    * ``class_embedding`` E_c: "class-name token embeddings" (its formula) are ``tokens``, or their
      ``mean``; "generate class embedding using text encoder" (its critical path) is ``feature``,
      the zero-shot feature of the class, ``[e]``, brought to D by a learned ``projection``.
    * ``residual``: "combine class embedding with learnable prompts". The formula Attn(p, c) = O[:N]
      shows no residual. Without one all N rows are nearly the same mean of values, and N prompts
      are one prompt, while the paper compares N = 4, 8, 16; so p is added.
    * ``initialisation``, "Kaiming": a normal of variance 2/D (``kaiming``), or that of a linear
      layer, uniform within ±1/√D (``linear``); ``xavier`` (1/D) and ``normal`` (0.02²) beside them.
      ``biases`` adds those of a linear layer; of keys none, for softmax does not see it.
    * ``context_words``: prompts that start at words, or from N(0, 0.02²) where it is null.
    * "single-head": ``heads``, each of width D/heads; ``attention`` of the prompts to all of U_c
      (``self``), to E_c alone (``cross``), or to each other, without the class (``prompts``);
      ``output_projection``, a matrix behind the heads.
    """

    card = MethodCard(
        name="contcoop",
        title="ContCoOp",
        paper="arXiv:2412.20895",
        inserts="text-input",
        summary="prompts attend to class-name embeddings",
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
        config, width = self.config, backbone.token_width
        if width % config.heads:
            raise CompatbenchError(
                f"method '{self.card.name}': {config.heads} heads do not divide a width of {width}"
            )
        words, name = config.context_words, self.card.name
        tensors = {"prompts": draw_context(backbone, config.context_length, words, name, rng)}
        inputs: dict[str, int] = dict.fromkeys(("query", "key", "value"), width)
        if config.output_projection:
            inputs["output"] = width
        if config.class_embedding == "feature":
            inputs["projection"] = backbone.embed_dim
        for layer, size in inputs.items():
            tensors[layer] = self._draw(size, (size, width), rng)
            if config.biases and layer != "key":
                bound = size**-0.5
                tensors[f"{layer}_bias"] = bound * (2 * torch.rand(width, generator=rng) - 1)
        return Module(tensors).to(backbone.device)

    def _draw(self, inputs: int, shape: tuple[int, int], rng: torch.Generator) -> Tensor:
        if self.config.initialisation == "linear":
            return (2 * torch.rand(shape, generator=rng) - 1) / math.sqrt(inputs)
        scales = {"kaiming": math.sqrt(2 / inputs), "xavier": math.sqrt(1 / inputs), "normal": 0.02}
        return torch.randn(shape, generator=rng) * scales[self.config.initialisation]

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> CosineClassifier:
        prompts = backbone.prompts(labels, self.contexts(module, backbone, labels))
        return CosineClassifier(backbone.encode_prompts(prompts), backbone.logit_scale)

    def contexts(self, module: Module, backbone: Backbone, labels: Labels) -> Tensor:
        """The context of every class, ``[C, N, D]``."""
        prompts = require_shape(module, "prompts", backbone.token_width, "text tokens of width")
        names, hidden = self._embed_classes(module, backbone, labels)
        rows = names
        if self.config.attention == "prompts":
            rows = prompts.expand(len(labels), -1, -1)
            hidden = hidden.new_zeros(rows.shape[:2])
        elif self.config.attention == "self":
            rows = torch.cat([prompts.expand(len(labels), -1, -1), names], dim=1)
            hidden = F.pad(hidden, (len(prompts), 0))
        entered = {"query": prompts, "key": rows, "value": rows}
        parts = [_linear(module, layer, x) for layer, x in entered.items()]
        heads = []
        for query, key, value in zip(*(x.chunk(self.config.heads, -1) for x in parts), strict=True):
            scores = query @ key.mT / math.sqrt(query.shape[-1])
            weights = scores.masked_fill(hidden[:, None], -torch.inf).softmax(-1)
            heads.append(weights @ value)
        context = torch.cat(heads, dim=-1)
        if self.config.output_projection:
            context = _linear(module, "output", context)
        return context + prompts if self.config.residual else context

    def _embed_classes(
        self, module: Module, backbone: Backbone, labels: Labels
    ) -> tuple[Tensor, Tensor]:
        """The class embeddings E_c, ``[C, n, D]``, and which of them are padding, ``[C, n]``."""
        if self.config.class_embedding == "feature":
            require_shape(module, "projection", backbone.embed_dim, "text features of size", dim=0)
            features = backbone.zero_shot(labels, labels.teacher_template)
            rows = _linear(module, "projection", features)[:, None]
            return rows, torch.zeros(rows.shape[:2], dtype=torch.bool, device=rows.device)
        names, lengths = backbone.name_tokens(labels)
        counts, hidden = _padding(lengths, names.shape[1], names.device)
        if self.config.class_embedding == "tokens":
            return names, hidden
        names = names.masked_fill(hidden[..., None], 0).sum(1) / counts
        return names[:, None], hidden[:, :1]

    def loss(self, classifier: CosineClassifier, batch: Batch) -> Tensor:
        distance = teacher_distance(classifier, batch)
        return super().loss(classifier, batch) + self.config.weight * distance


@lru_cache(maxsize=8)
def _padding(lengths: tuple[int, ...], width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The lengths of rows, ``[C, 1]``, and which of so many columns are behind them, ``[C, n]``.

    They are remembered, as a fit asks for them at every step.
    """
    counts = torch.tensor(lengths, device=device)[:, None]
    return counts, torch.arange(width, device=device) >= counts


def _linear(module: Module, layer: str, x: Tensor) -> Tensor:
    """x W + b, where the layer has a bias."""
    bias = f"{layer}_bias"
    return x @ module[layer] + (module[bias] if bias in module.tensors else 0)
