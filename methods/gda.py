"""GDA: a Gaussian classifier with a shared covariance, beside the zero-shot classifier.

Each class is a Gaussian of image features with its own mean and a covariance that all classes
share, which gives a linear classifier in closed form. It is added to zero-shot with a weight
chosen on validation images.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
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


class GDA(Method):
    """z = s · f̂ W_0ᵀ + α (f̂ Wᵀ + b), the second term from Gaussian discriminant analysis.

    Wang et al., *A Hard-to-Beat Baseline for Training-Free CLIP-based Adaptation*, section 3.
    With class means μ_c and one covariance Σ for all classes, over all training views of the
    shots: W = μ Σ⁻¹ and b_c = log(1/C) − ½ μ_c Σ⁻¹ μ_cᵀ. α is chosen on the few-shot validation
    images and stored in the module; without them it is the value at which the authors' search
    starts. A class without shots gets the mean of the other classes' means.
    """

    card = MethodCard(
        name="gda",
        title="GDA",
        paper="arXiv:2402.04087",
        inserts="classifier",
        summary="Gaussian classifier with a shared covariance beside zero-shot",
        zero_shot_at={"alpha": 0.0},
    )

    class Config(Method.Config):
        templates: Templates = "first"
        alpha: NonNegativeFloat = 0.1
        alphas: tuple[PositiveFloat, ...] = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        views = F.normalize(data.train.views, dim=-1)
        targets = data.train.targets.repeat(len(views))
        weight, bias = discriminant(views.flatten(0, 1), targets, len(data.labels))
        alpha = torch.tensor(self.config.alpha, device=backbone.device)
        module = Module({"weight": weight, "bias": bias}, {"alpha": alpha})
        return search_number(self, module, "alpha", self.config.alphas, backbone, data)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        weight = require_shape(module, "weight", backbone.embed_dim, "image features of size")
        bias = require_shape(module, "bias", len(labels), "a number of classes of")
        text = zero_shot(backbone, labels, self.config.templates)
        scale = backbone.logit_scale
        alpha = module["alpha"]

        def classify(features: Tensor) -> Tensor:
            features = F.normalize(features, dim=-1)
            return scale * features @ text.T + alpha * (features @ weight.T + bias)

        return classify


def discriminant(features: Tensor, targets: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return W ``[C, e]`` and b ``[C]`` of the Gaussian classifier with equal class priors.

    Σ⁻¹ is the authors' shrunk estimate: e · pinv((n − 1) S + tr(S) I), with the
    unbiased covariance S of the n centred features. It exists for every n. If there is nothing
    to estimate (one view of one shot per class), it is zero.
    """
    dtype = features.dtype
    n, size = features.shape
    # In single precision, the eigenvalues that the shrinkage adds are near pinv's cut-off.
    features = features.double()
    owners = F.one_hot(targets, classes).to(features)
    counts = owners.sum(0)
    seen = counts > 0
    means = owners.T @ features / counts.clamp(min=1)[:, None]
    means[~seen] = means[seen].mean(0)
    centred = features - means[targets]
    scatter = centred.T @ centred
    shrinkage = scatter.trace() / max(n - 1, 1) * torch.eye(size).to(features)
    precision = size * torch.linalg.pinv(scatter + shrinkage, hermitian=True)
    weight = means @ precision
    bias = -math.log(classes) - (weight * means).sum(-1) / 2
    return weight.to(dtype), bias.to(dtype)
