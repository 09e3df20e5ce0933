"""RLA: a square linear map of image features is trained, near the identity.

It is ProLIP where only features can be read, not the tower: the sibling in the same paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compatbench.method import (
    FEATURES,
    Backbone,
    Classifier,
    CosineClassifier,
    FewShotData,
    ImageInput,
    Labels,
    MethodCard,
    Module,
    require_shape,
)

from ._shared.texts import zero_shot
from .prolip import ProLIP


class RLA(ProLIP):
    """z = s · cos(f (I + D), W_0), with f the image feature, ``[e]``, and D a matrix ``[e, e]``.

    Fahes et al., *CLIP's Visual Embedding Projector is a Few-shot Cornucopia*, regularised linear
    adapter. The loss is cross-entropy + λ ‖D‖², and D starts at zero. λ, the recipe and the views
    are ProLIP's. The module holds D, so that it needs only features of the same size.
    """

    card = MethodCard(
        name="rla",
        title="RLA",
        paper="arXiv:2410.05270",
        inserts="feature",
        summary="trains a linear map of image features and holds it near the identity",
        zero_shot_at={"projection": 0.0},
    )

    def image_input(self, backbone: Backbone) -> ImageInput:
        return FEATURES

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        size = backbone.embed_dim
        return Module({"projection": torch.zeros(size, size, device=backbone.device)})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        change = require_shape(module, "projection", backbone.embed_dim, "image features of size")
        text = zero_shot(backbone, labels, self.config.templates)
        compare = CosineClassifier(text, backbone.logit_scale)

        def classify(features: Tensor) -> Tensor:
            return compare(features + features @ change)

        return classify
