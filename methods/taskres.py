"""TaskRes: a residual is added to the text classifier.

The text features of the classes stay frozen. A vector for each class, which starts at zero, is
trained and added to them. Only this vector is stored; the text features are those of the current
model.
"""

from __future__ import annotations

import torch
from pydantic import PositiveFloat

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

from ._shared.texts import Templates, mean_texts


class TaskRes(TrainedMethod):
    """w_c = t_c + α · x_c, with x learned from zero and t the backbone's own text features.

    Yu et al., *Task Residual for Tuning Vision-Language Models*, equation 4. t is not
    normalised; with several templates it is their mean. α = 0.5. Only x is stored. A checkpoint
    of the authors' code carries t along, which would replace the target's text features by the
    source's.
    """

    card = MethodCard(
        name="taskres",
        title="TaskRes",
        paper="arXiv:2211.10277",
        inserts="classifier",
        summary="additive residual on class weights",
        zero_shot_at={"residual": 0},
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(optimizer="adam", batch_size=256, epochs={1: 100, 5: 200})
        alpha: PositiveFloat = 0.5
        templates: Templates = "first"

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        shape = (len(data.labels), backbone.embed_dim)
        return Module(trained={"residual": torch.zeros(shape, device=backbone.device)})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> CosineClassifier:
        require_shape(module, "residual", backbone.embed_dim, "text features of size")
        residual = require_shape(module, "residual", len(labels), "a number of classes of", dim=0)
        text = mean_texts(backbone, labels, self.config.templates)
        return CosineClassifier(text + self.config.alpha * residual, backbone.logit_scale)
