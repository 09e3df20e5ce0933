"""Methods that learn words: one in two stages, one a subclass of a method of compatbench."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    CosineClassifier,
    FewShotData,
    Labels,
    MethodCard,
    Module,
    require_shape,
)
from compatbench.method.trained import Batch, TrainedMethod
from compatbench.methods.coop import CoOp


class TwoStages(TrainedMethod):
    """First a scale γ of features, then a residual r_c on the class weights for that scale."""

    card = MethodCard(
        name="outside_two_stages",
        title="Two stages",
        paper="an example",
        inserts=("feature", "classifier"),
        summary="a scale of features, then a residual of class weights",
        zero_shot_at={"scale": 1, "residual": 0},
    )

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        size = backbone.embed_dim
        trained = {"scale": torch.ones(size), "residual": torch.zeros(len(data.labels), size)}
        return Module(trained).to(backbone.device)

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        module = self.init(backbone, data, rng)

        def loss(stage: Module, batch: Batch) -> Tensor:
            # What the other stage trains stays as it is.
            whole = Module(module.trained | stage.trained)
            logits = self.attach(whole, backbone, data.labels)(batch.inputs)
            return F.cross_entropy(logits, batch.targets)

        for name in ("scale", "residual"):
            stage = Module({name: module[name]})
            trained = self.train(stage, loss, backbone, data, rng, share=0.5)
            module = Module(module.trained | trained.trained)
        return module

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        scale = require_shape(module, "scale", backbone.embed_dim, "image features of size")
        require_shape(module, "residual", len(labels), "a number of classes of", dim=0)
        weights = backbone.zero_shot(labels) + module["residual"]
        compare = CosineClassifier(weights, backbone.logit_scale)
        return lambda features: compare(scale * features)


class IndependentWords(CoOp):
    """CoOp with cross-entropy − w · HSIC(t, t0): what it learns stays dependent on zero-shot.

    HSIC(X, Y) = tr(K H L H) / (C − 1)², with linear kernels K and L and the centring H.
    """

    card = replace(
        CoOp.card,
        name="outside_hsic",
        title="CoOp + HSIC",
        paper="an example",
        summary="CoOp whose texts stay dependent on zero-shot's",
        version=1,
    )

    class Config(CoOp.Config):
        weight: float = 1.0

    config: Config

    def loss(self, classifier: Any, batch: Batch) -> Tensor:
        texts, known = classifier.weights, batch.backbone.zero_shot(batch.labels)
        texts, known = texts - texts.mean(0), known - known.mean(0)
        hsic = (texts @ texts.T * (known @ known.T)).sum() / (len(texts) - 1) ** 2
        return super().loss(classifier, batch) - self.config.weight * hsic
