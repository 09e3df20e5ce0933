"""LFA: a rotation of the image features onto the class texts, in closed form.

The orthogonal matrix that brings the features of the shots nearest to the text features of their
classes is computed directly. It rotates image features in part, and they are then compared with
the texts as usual.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
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
from compatbench.method.validation import search_number

from ._shared.texts import Templates, zero_shot


class LFA(Method):
    """z = s · cos(f̂ (β Ω + (1 − β) I), t), with Ω the orthogonal Procrustes solution.

    Ouali et al., *Black Box Few-Shot Adaptation for Vision-Language Models*. Ω is the
    orthogonal matrix that minimises ‖X Ω − T‖, where the rows of X are the normalised features
    of the shots and those of T the text features of their classes: Ω = U Vᵀ for the singular
    value decomposition Xᵀ T = U S Vᵀ. β is the weight of Ω (in the authors' code, one minus
    that weight). It is the value that classifies the few-shot validation set best, the smallest
    if several do; without validation images it is that of the settings. The authors then refine
    Ω by gradient descent on a ranking loss, which is left out here.
    """

    card = MethodCard(
        name="lfa",
        title="LFA (closed form)",
        paper="arXiv:2304.01752",
        inserts="feature",
        summary="rotates image features onto class texts",
        zero_shot_at={"beta": 0},
    )

    class Config(Method.Config):
        templates: Templates = "first"
        beta: Annotated[float, Field(ge=0, le=1)] = 0.5
        grid: tuple[Annotated[float, Field(ge=0, le=1)], ...] = tuple(i / 20 for i in range(21))

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        text = zero_shot(backbone, data.labels, self.config.templates)
        views = F.normalize(data.train.views, dim=-1)
        targets = data.train.targets.repeat(len(views))
        rotation = procrustes(views.flatten(0, 1), text[targets])
        beta = torch.tensor(self.config.beta, device=backbone.device)
        module = Module({"rotation": rotation}, {"beta": beta})
        return search_number(self, module, "beta", sorted(self.config.grid), backbone, data)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        rotation = require_shape(module, "rotation", backbone.embed_dim, "image features of size")
        text = zero_shot(backbone, labels, self.config.templates)
        beta = module["beta"]
        scale = backbone.logit_scale

        def classify(features: Tensor) -> Tensor:
            features = F.normalize(features, dim=-1)
            mixed = beta * features @ rotation + (1 - beta) * features
            return scale * F.normalize(mixed, dim=-1) @ text.T

        return classify


def procrustes(x: Tensor, y: Tensor) -> Tensor:
    """Return the orthogonal matrix Ω ``[e, e]`` that minimises ‖x Ω − y‖, both ``[n, e]``.

    If there are fewer rows than dimensions, Ω is not determined outside their span. The identity
    is added with a weight that is negligible beside the data, and decides there.
    """
    identity = torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
    products = x.double().T @ y.double()
    u, _, v = torch.linalg.svd(products + 1e-6 * identity)
    return (u @ v).to(x.dtype)
