"""ProGrad: CoOp without the parts of its gradient that go against zero-shot knowledge.

Each step computes two gradients: that of the classification loss, and that of the distance to
zero-shot's predictions. Where they conflict, the conflicting part of the first is removed
before the context moves.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
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
from compatbench.method.trained import Batch

from ._shared.texts import Template
from .coop import CoOp


class ProGrad(CoOp):
    """The context of CoOp moves by G = G_d − λ · min(0, ⟨G_d, G_g⟩) / ‖G_g‖² · G_g.

    Zhu et al., *Prompt-aligned Gradient for Prompt Tuning*, equations 3 to 5. G_d is the
    gradient of the cross-entropy, G_g that of T² · KL(zero-shot ‖ learned) at temperature T. So
    the part of G_d that conflicts with G_g is taken out. λ = 1, T = 1.

    In detail: the zero-shot template is ``teacher``, or else the task's first. As in the
    authors' code, the last of the M context vectors start at the template's words before the
    name, and the first ones at zero. Each word takes one vector. If the words have more tokens,
    as a comma adds one, the remaining tokens stay between the context and the name.
    """

    card = MethodCard(
        name="prograd",
        title="ProGrad",
        paper="arXiv:2205.14865",
        inserts="text-input",
        summary="CoOp without gradients against zero-shot",
    )

    class Config(CoOp.Config):
        strength: NonNegativeFloat = 1.0
        temperature: PositiveFloat = 1.0
        teacher: Template | None = None

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        if self.config.context_words is not None or self.config.class_specific:
            return super().init(backbone, data, rng)
        length = self.config.context_length
        start, _ = self._embed_words(backbone, data.labels)
        last = start[-length:]
        zeros = length - len(last)
        return Module(trained={"context": F.pad(last, (0, 0, zeros, 0))})

    def _embed_words(self, backbone: Backbone, labels: Labels) -> tuple[Tensor, Tensor]:
        """Embed the template's words before the name, ``[tokens, D]``.

        Return as many rows as there are words, at which the context starts, and the remaining
        rows, which stay between the context and the name.
        """
        template = self.config.teacher or labels.templates[0]
        words = template.split("{}")[0].strip()
        rows = backbone.embed_text(words)
        count = len(words.split())
        return rows[:count], rows[count:]

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> CosineClassifier:
        classifier = super().attach(module, backbone, labels)
        return _PromptClassifier(classifier.weights, classifier.scale, module["context"])

    def encode(self, module: Module, backbone: Backbone, labels: Labels) -> Tensor:
        _, remaining = self._embed_words(backbone, labels)
        has_own_start = self.config.context_words is not None or module["context"].ndim == 3
        if has_own_start or len(remaining) == 0:
            return super().encode(module, backbone, labels)
        context = require_shape(module, "context", backbone.token_width, "text tokens of width")
        prompts = backbone.prompts(labels, torch.cat([context, remaining]))
        return backbone.encode_prompts(prompts)

    def loss(self, classifier: _PromptClassifier, batch: Batch) -> Tensor:
        """Return the cross-entropy, with the projected gradient in place of its own."""
        logits = classifier(batch.features)
        entropy = F.cross_entropy(logits, batch.targets)
        if not logits.requires_grad:
            return entropy
        texts = batch.backbone.zero_shot(batch.labels, self.config.teacher)
        teacher = CosineClassifier(texts, classifier.scale)
        divergence = distillation(logits, teacher(batch.features), self.config.temperature)
        context = classifier.context
        (domain,) = torch.autograd.grad(entropy, context, retain_graph=True)
        (general,) = torch.autograd.grad(divergence, context)
        gradient = project(domain, general, self.config.strength)
        # Adds 0 to the value, and has the projected gradient.
        step = (gradient * context).sum()
        return entropy.detach() + step - step.detach()


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² · KL(softmax(teacher/T) ‖ softmax(logits/T)), the mean over images."""
    divergence = F.kl_div(
        F.log_softmax(logits / temperature, dim=-1),
        F.log_softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence


def project(domain: Tensor, general: Tensor, strength: float) -> Tensor:
    """Subtract from ``domain`` its part that conflicts with ``general``, times ``strength``."""
    against = (domain * general).sum().clamp(max=0)
    # The clamp only avoids 0/0: a gradient of zero conflicts with nothing.
    square = general.square().sum().clamp(min=torch.finfo(general.dtype).tiny)
    return domain - strength * against / square * general


class _PromptClassifier(CosineClassifier):
    """A cosine classifier that keeps the context it was made from, for the loss."""

    def __init__(self, weights: Tensor, scale: float | Tensor, context: Tensor) -> None:
        super().__init__(weights, scale)
        self.context = context
