"""CoOp: free vectors replace the words around the class name.

Instead of a hand-written prompt such as "a photo of a", vectors in the space of token embeddings
are trained on the shots. Both towers are frozen, and all classes share the vectors.
"""

from __future__ import annotations

import torch
from pydantic import PositiveInt
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
from compatbench.method.trained import TrainedMethod

from ._shared.prompts import Position, arrange, draw_context


class CoOp(TrainedMethod):
    """z_c = s · cos(f, t_c), where t_c encodes [SOS, v_1 ... v_M, E(name_c), E("."), EOT].

    Zhou et al., *Learning to Prompt for Vision-Language Models*, section 3.2. All classes share
    the M context vectors v.

    In detail: they are drawn from N(0, 0.02²), or start at the embeddings of ``context_words``,
    which must then be ``context_length`` tokens. ``position`` puts the name at the ``end`` of
    the context, in the ``middle`` (after the first M/2 vectors), or at its ``front``. With
    ``class_specific`` every class has its own context, ``[C, M, D]``, and the module serves no
    other classes.
    """

    card = MethodCard(
        name="coop",
        title="CoOp",
        paper="arXiv:2109.01134",
        inserts="text-input",
        summary="learns the context words as free vectors",
    )

    class Config(TrainedMethod.Config):
        context_length: PositiveInt = 16
        context_words: str | None = None
        position: Position = "end"
        class_specific: bool = False

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        length = self.config.context_length
        words = self.config.context_words
        name = self.card.name
        if self.config.class_specific:
            contexts = [draw_context(backbone, length, words, name, rng) for _ in data.labels.names]
            context = torch.stack(contexts)
        else:
            context = draw_context(backbone, length, words, name, rng)
        return Module(trained={"context": context.to(backbone.device)})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> CosineClassifier:
        return CosineClassifier(self.encode(module, backbone, labels), backbone.logit_scale)

    def contexts(self, module: Module, backbone: Backbone, labels: Labels) -> Tensor | None:
        return module["context"]

    def encode(self, module: Module, backbone: Backbone, labels: Labels) -> Tensor:
        """Return text features t_c under the learned context, not normalised, ``[C, e]``."""
        context = require_shape(module, "context", backbone.token_width, "text tokens of width")
        if context.ndim == 3:
            require_shape(module, "context", len(labels), "a number of classes of", dim=0)
        prompts = arrange(backbone, labels, context, self.config.position)
        return backbone.encode_prompts(prompts)
