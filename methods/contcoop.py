"""ContCoOp: prompts that attend to the class names, and so follow an upgraded text tower."""

from __future__ import annotations

import math
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

from ._shared.prompts import teacher_distance


class ContCoOp(TrainedMethod):
    """One attention layer mixes N learnable prompts with the class-name embeddings.

    Wang et al., *Towards Compatible Fine-tuning for Vision-Language Model Updates*.
    With U_c = [p; E(name_c)], the context of class c is the first N rows of
    softmax(U_c W_q (U_c W_k)ᵀ / √D) U_c W_v: one head, Kaiming initialisation, at the
    text encoder's input. L = L_ce + λ · L_kd, the distillation of KgCoOp. On another
    backbone E(name_c) is that backbone's, so the context changes with it.

    The paper's λ and schedule could not be read; the defaults are KgCoOp's. What it leaves
    open are settings, the defaults being the form above: ``heads``, each of width D/heads;
    ``attention`` of the prompts to all of U_c (``self``), to E(name_c) alone (``cross``), or to
    each other, without the class (``prompts``);
    ``output_projection``, a matrix W_o behind the heads; ``residual``, which adds p to the
    outcome; and the standard deviation of the matrices (``initialisation``): √(2/D), √(1/D)
    or 0.02.
    """

    card = MethodCard(
        name="contcoop",
        title="ContCoOp",
        paper="arXiv:2412.20895",
        inserts="text-input",
        summary="prompts attend to class-name embeddings",
        step_cost=1.7,
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(batch_size=128, epochs=100)
        context_length: PositiveInt = 4
        weight: NonNegativeFloat = 8.0
        heads: PositiveInt = 1
        attention: Literal["self", "cross", "prompts"] = "self"
        output_projection: bool = False
        residual: bool = False
        initialisation: Literal["kaiming", "xavier", "normal"] = "kaiming"

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        width, heads = backbone.token_width, self.config.heads
        if width % heads:
            raise CompatbenchError(
                f"method '{self.card.name}': {heads} heads do not divide a width of {width}"
            )
        scales = {"kaiming": math.sqrt(2 / width), "xavier": math.sqrt(1 / width), "normal": 0.02}
        scale = scales[self.config.initialisation]
        tensors = {"prompts": torch.randn(self.config.context_length, width, generator=rng) * 0.02}
        matrices = ["query", "key", "value"] + ["output"] * self.config.output_projection
        for name in matrices:
            tensors[name] = torch.randn(width, width, generator=rng) * scale
        return Module(trained={name: t.to(backbone.device) for name, t in tensors.items()})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> CosineClassifier:
        require_shape(module, "prompts", backbone.token_width, "text tokens of width")
        context = self.mix(module, *backbone.name_tokens(labels))
        features = backbone.encode_prompts(backbone.prompts(labels, context))
        return CosineClassifier(features, backbone.logit_scale)

    def mix(self, module: Module, names: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """The context of every class, ``[C, N, D]``, from name embeddings ``[C, n, D]``."""
        prompts = module["prompts"]
        classes, longest, _ = names.shape
        column = torch.arange(longest, device=names.device)
        hidden = column >= torch.tensor(lengths, device=names.device)[:, None]
        rows = names
        if self.config.attention == "prompts":
            rows = prompts.expand(classes, -1, -1)
            hidden = hidden.new_zeros(classes, len(prompts))
        elif self.config.attention == "self":
            rows = torch.cat([prompts.expand(classes, -1, -1), names], dim=1)
            hidden = F.pad(hidden, (len(prompts), 0))
        parts = [prompts @ module["query"], rows @ module["key"], rows @ module["value"]]
        heads = []
        for query, key, value in zip(*(x.chunk(self.config.heads, -1) for x in parts), strict=True):
            scores = query @ key.mT / math.sqrt(query.shape[-1])
            weights = scores.masked_fill(hidden[:, None], -torch.inf).softmax(-1)
            heads.append(weights @ value)
        context = torch.cat(heads, dim=-1)
        if self.config.output_projection:
            context = context @ module["output"]
        return context + prompts if self.config.residual else context

    def loss(self, classifier: CosineClassifier, batch: Batch) -> Tensor:
        return super().loss(classifier, batch) + self.config.weight * teacher_distance(
            classifier, batch
        )
