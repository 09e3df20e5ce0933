"""Zero-shot CLIP (ensemble): the mean of several hand-written prompts is the classifier.

Each class has one text feature: the mean of the normalised features of all its prompts.
"""

from __future__ import annotations

from dataclasses import replace

from compatbench.method import Backbone, Classifier, CosineClassifier, Labels, MethodCard, Module

from ._shared.texts import Templates, choose_templates
from .zeroshot import ZeroShot


class ZeroShotEnsemble(ZeroShot):
    """z_c = s · cos(f, t_c), with t_c the mean of the normalised features of the task's templates.

    Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*,
    section 3.1.4.
    """

    card = MethodCard(
        name="zeroshot_ensemble",
        title="Zero-shot (ensemble)",
        paper="arXiv:2103.00020",
        inserts="none",
        summary="the mean of several hand-written prompts",
        learns=False,
    )

    class Config(ZeroShot.Config):
        templates: Templates = "all"

    config: Config

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        chosen = replace(labels, templates=choose_templates(labels, self.config.templates))
        return CosineClassifier(backbone.zero_shot_ensemble(chosen), backbone.logit_scale)
