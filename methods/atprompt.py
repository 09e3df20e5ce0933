"""ATPrompt: the learned context contains words for general attributes.

As in CoOp, free vectors before the class name are trained on the shots. Fixed words for
attributes, such as shape or colour, stand between them, each behind its own learned vectors.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveInt, StringConstraints
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
from compatbench.method.trained import Recipe, TrainedMethod

from ._shared.prompts import draw_context

Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class ATPrompt(TrainedMethod):
    """CoOp with fixed attribute words, each behind its own learned vectors.

    Li et al., *ATPrompt: Textual Prompt Learning with Embedded Attributes*, section 3. With the
    attributes a₁ ... a_A of a task, the prompt of class c is

        X_c = [SOS, u₁ (n vectors), E(a₁), ..., u_A (n), E(a_A), v (M), E(name_c), E("."), EOT],

    with v from N(0, 0.02²), u from N(0, 0.01²) and n = M = 2. A suite gives the ``attributes``
    of each task; the authors choose them from a language model's candidates, by a search on
    validation images.
    """

    card = MethodCard(
        name="atprompt",
        title="ATPrompt (CoOp)",
        paper="arXiv:2412.09442",
        inserts="text-input",
        summary="CoOp with attribute words",
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(epochs=100)
        attributes: Annotated[tuple[Word, ...], Field(min_length=1)] = ("color", "shape")
        attribute_length: PositiveInt = 2
        context_length: PositiveInt = 2

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        config = self.config
        context = draw_context(backbone, config.context_length, None, self.card.name, rng)
        shape = len(config.attributes), config.attribute_length, backbone.token_width
        attributes = 0.01 * torch.randn(shape, generator=rng)
        return Module({"context": context, "attribute_context": attributes}).to(backbone.device)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> CosineClassifier:
        prompts = backbone.prompts(labels, self.contexts(module, backbone, labels))
        return CosineClassifier(backbone.encode_prompts(prompts), backbone.logit_scale)

    def contexts(self, module: Module, backbone: Backbone, labels: Labels) -> Tensor:
        """Return all rows before the class names, ``[A · n + tokens of attributes + M, D]``."""
        words = self.config.attributes
        context = require_shape(module, "context", backbone.token_width, "text tokens of width")
        require_shape(module, "attribute_context", len(words), "a number of attributes of", dim=0)
        rows = []
        for before, word in zip(module["attribute_context"], words, strict=True):
            rows += [before, backbone.embed_text(word)]
        return torch.cat([*rows, context])
