"""Zero-shot CLIP: hand-written prompts are the classifier, with which all others are compared.

The text tower encodes one prompt for each class, and an image gets the class with the most similar
text feature. Nothing is trained, so an upgrade gives the new model's own accuracy.
"""

from __future__ import annotations

import torch

from compatbench.method import (
    Backbone,
    Classifier,
    CosineClassifier,
    FewShotData,
    Labels,
    Method,
    MethodCard,
    Module,
)


class ZeroShot(Method):
    """z_c = s · cos(f, t_c), with t_c the text feature of a template filled with the class name.

    Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*,
    section 3.1. The template is the task's first.
    """

    card = MethodCard(
        name="zeroshot",
        title="Zero-shot",
        paper="arXiv:2103.00020",
        inserts="none",
        summary="hand-written prompts give the classifier",
        learns=False,
    )

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        return Module()

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        return CosineClassifier(backbone.zero_shot(labels), backbone.logit_scale)
