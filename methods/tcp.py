"""TCP: prompts that are computed from the zero-shot features of the classes.

A small network turns the zero-shot feature of a class into prompt rows, which replace the learned
context in a late block of the text tower. On another model the rows are made from that model's
features.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from compatbench.backbone.text.prompts import Swap
from compatbench.method import (
    Backbone,
    CosineClassifier,
    FewShotData,
    Labels,
    MethodCard,
    Module,
    NotTransferable,
    require_shape,
)
from compatbench.method.trained import Recipe

from ._shared.layers import draw_bottleneck
from ._shared.texts import Template
from .kgcoop import KgCoOp


class TCP(KgCoOp):
    """KgCoOp whose context is, in a late block, overwritten by a function of the class.

    Yao et al., *TCP: Textual-based Class-aware Prompt Tuning for Visual-Language Model*,
    section 3.2. With t⁰_c the frozen features of a hand-written template, P_c = W_2 q(W_1 t⁰_c
    + b_1) + b_2 is M rows of width D (bottleneck e/4, q is QuickGELU). It replaces the M
    context rows of class c before block 8, counted from 0, of the text tower's 12; in a tower
    of n blocks before block ⌊2n/3⌋. The name follows the context, with the words that follow it
    in the teacher's template, or in the ``template``, such as ``person doing {}.``. The loss is
    KgCoOp's with weight 8; the context starts at N(0, 0.02²). On another backbone t⁰_c, and so
    P_c, is made from that backbone's features.
    """

    card = MethodCard(
        name="tcp",
        title="TCP",
        paper="arXiv:2311.18231",
        inserts=("text-input", "text-layers"),
        summary="prompts computed from class features, in a late text block",
    )

    class Config(KgCoOp.Config):
        recipe: Recipe = Recipe(optimizer="adam", eps=1e-3, epochs=50)
        context_words: str | None = None
        position: Literal["end"] = "end"
        class_specific: Literal[False] = False
        weight: NonNegativeFloat = 8.0
        template: Template | None = None
        reduction: PositiveInt = 4

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        width = self.config.context_length * backbone.token_width
        network = draw_bottleneck(backbone, self.config.reduction, width, rng)
        return Module(super().init(backbone, data, rng).trained | network)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> CosineClassifier:
        context = require_shape(module, "context", backbone.token_width, "text tokens of width")
        require_shape(module, "down", backbone.embed_dim, "text features of size")
        block = backbone.text.depth * 2 // 3
        if block == 0:
            raise NotTransferable("the text tower has a single block, and none to act in")
        teacher = self.config.teacher or labels.teacher_template
        projected = _project(module, backbone.zero_shot(labels, teacher))
        class_prompts = projected.unflatten(1, context.shape)
        before, after = self._words_around_name(teacher)
        context = torch.cat([context, backbone.embed_text(before)])
        contexts = context.expand(len(labels), -1, -1)
        prompts = backbone.prompts(labels, contexts, stop=after)
        prompts = dataclasses.replace(prompts, swap=Swap(block, class_prompts))
        return CosineClassifier(backbone.encode_prompts(prompts), backbone.logit_scale)

    def _words_around_name(self, teacher: str) -> tuple[str, str]:
        """Return the words between context and name, and those behind the name with a full stop."""
        if self.config.template:
            before, after = self.config.template.split("{}")
            return before, after
        behind_name = teacher.split("{}", 1)[1]
        return "", f"{behind_name.removesuffix('.')}."


def _project(module: Module, texts: Tensor) -> Tensor:
    """Return P_c of normalised text features, ``[C, M · D]``."""
    hidden = F.linear(texts, module["down"], module["down_bias"])
    activated = hidden * torch.sigmoid(1.702 * hidden)  # QuickGELU
    return F.linear(activated, module["up"], module["up_bias"])
