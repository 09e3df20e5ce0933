"""CuPL: the classifier averages several sentences about each class.

A language model has described what each class looks like. The mean feature of its sentences
replaces the feature of the hand-written prompt; nothing is learned.
"""

from __future__ import annotations

import torch

from compatbench.method import Backbone, CosineClassifier, Labels, Method, MethodCard, Module

from ._shared.texts import Templates, class_texts
from .zeroshot import ZeroShot


class CuPL(ZeroShot):
    """w_c is the mean of the normalised features of the class's sentences, normalised again.

    Pratt et al., *What does a platypus look like? Generating customized prompts for zero-shot
    image classification*, section 3. The sentences are the task's descriptions, so CuPL cannot
    run on a task without any. With ``templates`` the hand-written prompts are added as further
    sentences, which the paper tries too.
    """

    card = MethodCard(
        name="cupl",
        title="CuPL",
        paper="arXiv:2209.03320",
        inserts="none",
        summary="the mean of several sentences about a class",
        needs={"descriptions"},
        learns=False,
    )

    class Config(Method.Config):
        templates: Templates | None = None

    config: Config

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> CosineClassifier:
        texts = class_texts(backbone, labels, self.config.templates)
        means = torch.stack([class_features.mean(0) for class_features in texts])
        return CosineClassifier(means, backbone.logit_scale)
