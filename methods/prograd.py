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

from .coop import CoOp


class ProGrad(CoOp):
    """CoOp whose context is moved by the projected gradient.

    Zhu et al., *Prompt-aligned Gradient for Prompt Tuning*, equations 3 to 5. G_d is the
    gradient of the cross-entropy, G_g that of T² · KL(zero-shot ‖ learned) at temperature T.
    Where they conflict, ⟨G_d, G_g⟩ < 0, the conflicting part is taken out:
    G = G_d − λ · ⟨G_d, G_g⟩ / ‖G_g‖² · G_g; else G = G_d. λ = 1, T = 1.

    The zero-shot template is ``teacher``, or else the task's first. As in the authors' code the M
    context vectors end with the words that stand before the name in it; those before them start
    at zero. A word takes one vector there, and tokens that are left (for the authors' templates
    begin with a comma's) stay between the context and the name. Recipe: CoOp's.
    """

    card = MethodCard(
        name="prograd",
        title="ProGrad",
        paper="arXiv:2205.14865",
        inserts="text-input",
        summary="drops gradient parts that conflict with zero-shot",
    )

    class Config(CoOp.Config):
        strength: NonNegativeFloat = 1.0
        temperature: PositiveFloat = 1.0
        teacher: str | None = None

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        if self.config.context_words is not None or self.config.class_specific:
            return super().init(backbone, data, rng)
        known = self._start(backbone, data.labels)[0][-self.config.context_length :]
        unknown = self.config.context_length - len(known)
        return Module(trained={"context": F.pad(known, (0, 0, unknown, 0))})

    def _start(self, backbone: Backbone, labels: Labels) -> tuple[Tensor, Tensor]:
        """What the context ends with at the start, and what is left of the words behind it."""
        words = (self.config.teacher or labels.templates[0]).split("{}")[0].strip()
        tokens, count = backbone.embed_text(words), len(words.split())
        return tokens[:count], tokens[count:]

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> CosineClassifier:
        classifier = super().attach(module, backbone, labels)
        return _PromptClassifier(classifier.weights, classifier.scale, module["context"])

    def encode(self, module: Module, backbone: Backbone, labels: Labels) -> Tensor:
        rest = self._start(backbone, labels)[1]
        if self.config.context_words is not None or module["context"].ndim == 3 or not len(rest):
            return super().encode(module, backbone, labels)
        context = require_shape(module, "context", backbone.token_width, "text tokens of width")
        return backbone.encode_prompts(backbone.prompts(labels, torch.cat([context, rest])))

    def loss(self, classifier: _PromptClassifier, batch: Batch) -> Tensor:
        """The cross-entropy, with the projected gradient in place of its own."""
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
        step = (gradient * context).sum()
        return entropy.detach() + step - step.detach()


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(teacher/T) ‖ softmax(logits/T)), the mean over images."""
    divergence = F.kl_div(
        F.log_softmax(logits / temperature, dim=-1),
        F.log_softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence


def project(domain: Tensor, general: Tensor, strength: float) -> Tensor:
    """``domain`` less ``strength`` times its part against ``general``, if it has one."""
    against = (domain * general).sum().clamp(max=0)
    # A gradient of zero is in conflict with nothing.
    square = general.square().sum().clamp(min=torch.finfo(general.dtype).tiny)
    return domain - strength * against / square * general


class _PromptClassifier(CosineClassifier):
    """A classifier that remembers the context it was made from."""

    def __init__(self, weights: Tensor, scale: float | Tensor, context: Tensor) -> None:
        super().__init__(weights, scale)
        self.context = context
