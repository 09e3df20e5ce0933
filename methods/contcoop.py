"""ContCoOp: prompts that attend to the class names, and so follow an upgraded text tower."""

from __future__ import annotations

import math

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    CosineClassifier,
    FewShotData,
    Labels,
    MethodCard,
    Module,
    require_shape,
)
from compatbench.method.optim import Recipe
from compatbench.method.trained import Batch, TrainedMethod

from .kgcoop import distillation


class ContCoOp(TrainedMethod):
    """One attention layer mixes N learnable prompts with the class-name embeddings.

    Wang et al., *Towards Compatible Fine-tuning for Vision-Language Model Updates*.
    With U_c = [p; E(name_c)], the context of class c is the first N rows of
    softmax(U_c W_q (U_c W_k)ᵀ / √D) U_c W_v: one head, Kaiming initialisation, at the
    text encoder's input. L = L_ce + λ · L_kd, the distillation of KgCoOp. On another
    backbone E(name_c) is that backbone's, so the context changes with it.

    The paper's λ and schedule could not be read; the defaults are KgCoOp's.
    """

    card = MethodCard(
        name="contcoop",
        title="ContCoOp",
        paper="arXiv:2412.20895",
        inserts="text-input",
        summary="prompts attend to class-name embeddings",
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(batch_size=128, epochs=100)
        context_length: PositiveInt = 4
        weight: NonNegativeFloat = 8.0

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        width = backbone.token_width
        tensors = {"prompts": torch.randn(self.config.context_length, width, generator=rng) * 0.02}
        for name in ("query", "key", "value"):
            tensors[name] = torch.randn(width, width, generator=rng) * math.sqrt(2 / width)
        return Module(trained={name: t.to(backbone.device) for name, t in tensors.items()})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> CosineClassifier:
        require_shape(module, "prompts", backbone.token_width, "text tokens of width")
        context = self._mix(module, *backbone.name_tokens(labels))
        features = backbone.encode_prompts(backbone.prompts(labels, context))
        return CosineClassifier(features, backbone.logit_scale)

    @staticmethod
    def _mix(module: Module, names: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """The context of every class, ``[C, N, D]``, from name embeddings ``[C, n, D]``."""
        prompts = module["prompts"]
        classes, longest, width = names.shape
        rows = torch.cat([prompts.expand(classes, -1, -1), names], dim=1)
        scores = (prompts @ module["query"]) @ (rows @ module["key"]).mT / math.sqrt(width)
        column = torch.arange(longest, device=names.device)
        padding = column >= torch.tensor(lengths, device=names.device)[:, None]
        own = torch.zeros(classes, len(prompts), dtype=torch.bool, device=names.device)
        scores = scores.masked_fill(torch.cat([own, padding], dim=1)[:, None], -torch.inf)
        return scores.softmax(-1) @ (rows @ module["value"])

    def loss(self, classifier: CosineClassifier, batch: Batch) -> Tensor:
        return super().loss(classifier, batch) + self.config.weight * distillation(
            classifier, batch
        )
