"""A method without training, whose two numbers are in a file beside it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F

from compatbench.method import (
    Backbone,
    Classifier,
    CosineClassifier,
    FewShotData,
    Labels,
    Method,
    MethodCard,
    Module,
    require_shape,
)

NUMBERS = json.loads(Path(__file__).with_name("centres.json").read_text(encoding="utf-8"))


class Centres(Method):
    """w_c = t_c + w · ((1 − s) m_c + s m), with m_c the mean feature of class c, and m of all."""

    card = MethodCard(
        name="outside_centres",
        title="Centres",
        paper="an example",
        inserts="classifier",
        summary="adds shrunk means of the shots to the class weights",
        files=("centres.json",),
        zero_shot_at={"centres": 0},
    )

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        images = F.normalize(data.train.plain, dim=-1)
        targets = data.train.targets
        centre = images.mean(0)
        centres = centre.repeat(
            len(data.labels), 1
        )  # a class without images keeps the centre of all
        for label in targets.unique():
            own = images[targets == label].mean(0)
            centres[label] = (1 - NUMBERS["shrink"]) * own + NUMBERS["shrink"] * centre
        return Module({"centres": centres})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        centres = require_shape(module, "centres", backbone.embed_dim, "image features of size")
        require_shape(module, "centres", len(labels), "a number of classes of", dim=0)
        weights = backbone.zero_shot(labels) + NUMBERS["weight"] * centres
        return CosineClassifier(weights, backbone.logit_scale)
