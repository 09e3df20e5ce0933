"""SimpleShot: the nearest class mean of centred, normalised image features.

Features are centred on the mean of the shots, and each class is the mean of its shots. An image
gets the class of the nearest mean; no text is used.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    FewShotData,
    Labels,
    Method,
    MethodCard,
    Module,
    require_shape,
)


class SimpleShot(Method):
    """z_c = −s · ‖g(f) − m_c‖² with g(f) = (f̂ − a) / ‖f̂ − a‖ and m_c the mean of g over class c.

    Wang et al., *SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning*,
    in its form CL2N. a is the mean feature of the shots. All training views count. A class
    without shots has its mean at a. a and m belong entirely to the source's feature space.
    """

    card = MethodCard(
        name="simpleshot",
        title="SimpleShot",
        paper="arXiv:1911.04623",
        inserts="classifier",
        summary="nearest class mean of centred features",
    )

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        views = F.normalize(data.train.views, dim=-1).flatten(0, 1)
        owners = F.one_hot(data.train.targets, len(data.labels)).repeat(len(data.train.views), 1)
        centre = views.mean(0)
        centred = F.normalize(views - centre, dim=-1)
        sums = owners.to(views).T @ centred
        means = sums / owners.sum(0).clamp(min=1)[:, None]
        return Module({"centre": centre, "means": means})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        means = require_shape(module, "means", backbone.embed_dim, "image features of size")
        require_shape(module, "means", len(labels), "a number of classes of", dim=0)
        centre = module["centre"]
        scale = backbone.logit_scale

        def classify(features: Tensor) -> Tensor:
            centred = F.normalize(F.normalize(features, dim=-1) - centre, dim=-1)
            # ‖g − m‖² is multiplied out, because all differences would be [batch, C, e].
            squares = centred.square().sum(-1, keepdim=True) + means.square().sum(-1)
            return scale * (2 * centred @ means.T - squares)

        return classify
