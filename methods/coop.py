"""CoOp: the words around the class name become free vectors."""

from __future__ import annotations

import torch
from pydantic import PositiveInt

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
from compatbench.method.trained import TrainedMethod


class CoOp(TrainedMethod):
    """M context vectors, shared by all classes, stand before the class name.

    Zhou et al., *Learning to Prompt for Vision-Language Models*, section 3.2. The
    prompt of class c is X_c = [SOS, v_1 ... v_M, E(name_c), E("."), EOT]; its text
    feature t_c gives z_c = s · cos(f, t_c). Recipe: SGD at 2e-3 with one warm-up
    epoch at 1e-5, batch 32, 200 epochs from 8 shots on; v is drawn from N(0, 0.02²), or
    starts at the embeddings of ``context_words``, which must then be ``context_length``
    tokens.
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

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        length, words = self.config.context_length, self.config.context_words
        if words is None:
            context = torch.randn(length, backbone.token_width, generator=rng) * 0.02
        else:
            context = backbone.embed_text(words)
            if len(context) != length:
                raise CompatbenchError(
                    f"method '{self.card.name}': context_words '{words}' are {len(context)} "
                    f"tokens, but context_length is {length}"
                )
        return Module(trained={"context": context.to(backbone.device)})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> CosineClassifier:
        context = require_shape(module, "context", backbone.token_width, "text tokens of width")
        features = backbone.encode_prompts(backbone.prompts(labels, context))
        return CosineClassifier(features, backbone.logit_scale)
