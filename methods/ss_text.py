"""SS-Text+: class texts with the shots added, in closed form and without validation images.

Cross-entropy pulls each class weight towards the features of its shots, and a penalty holds it to
its text feature. Without the term that pushes classes apart, the best weight is the text feature
plus a weighted sum of image features.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.method import (
    Backbone,
    CosineClassifier,
    FewShotData,
    Labels,
    Method,
    MethodCard,
    Module,
    require_shape,
)

from ._shared.texts import Templates, zero_shot

# The authors' code keeps λ from falling below this.
LEAST_PENALTY = 1e-3


class SSText(Method):
    """w_c = t_c + s Σ_{i in c} f_i / (N λ_c); then w_c − u_c, with u_c along 2 w_c − w̄.

    Silva-Rodríguez et al., *Few-Shot, Now for Real: Medical VLMs Adaptation without Balanced
    Sets or Validation*. f_i are the normalised image features of the N shots, one plain view of
    each, t_c the normalised text features, and s = 1/τ is the backbone's logit scale. The
    penalty is λ_c = 1/n_c, for n_c shots of class c, so that classes with more shots move
    further. u_c is a unit vector, and w̄ the mean of all w. Logits are s · cos(f, w_c). The
    module holds the sums Σ f_i / (N λ_c); t and s are those of the current model.

    In detail: with ``penalty`` ``total`` λ = 1/N for all classes, as in SS-Text (*Full
    Conformal Adaptation of Medical Vision-Language Models*). ``repel`` subtracts u_c; this step
    of the authors' code distinguishes SS-Text+ from SS-Text. A class without shots has only its
    text.
    """

    card = MethodCard(
        name="ss_text",
        title="SS-Text+",
        paper="arXiv:2506.17500",
        inserts="classifier",
        summary="class texts plus sums of the shots",
    )

    class Config(Method.Config):
        penalty: Literal["shots", "total"] = "shots"
        repel: bool = True
        templates: Templates = "first"

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        total = len(data.train)
        owners = F.one_hot(data.train.targets, len(data.labels))
        inverse_penalties = owners.sum(0)  # 1 / λ_c
        if self.config.penalty == "total":
            inverse_penalties = torch.full_like(inverse_penalties, total)
        features = F.normalize(data.train.plain, dim=-1)
        factors = inverse_penalties.clamp(max=1 / LEAST_PENALTY).to(features) / total
        sums = owners.to(features).T @ features
        return Module({"visual": factors[:, None] * sums})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> CosineClassifier:
        require_shape(module, "visual", backbone.embed_dim, "image features of size")
        visual = require_shape(module, "visual", len(labels), "a number of classes of", dim=0)
        weights = zero_shot(backbone, labels, self.config.templates)
        weights = weights + backbone.logit_scale * visual
        if self.config.repel:
            weights = weights - repulsion(weights)
        return CosineClassifier(weights, backbone.logit_scale)


def repulsion(weights: Tensor) -> Tensor:
    """Return the unit vectors u_c along 2 w_c − w̄, ``[C, e]``."""
    return F.normalize(2 * weights - weights.mean(0), dim=-1)
