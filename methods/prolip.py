"""ProLIP: the last projection of the image tower is fine-tuned, near its first value.

The matrix that projects the image tower's output into the embedding space is trained on the shots.
A penalty keeps it near its first value, and the module holds the difference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat
from torch import Tensor

from compatbench.method import (
    POOLED,
    Backbone,
    Classifier,
    CosineClassifier,
    FewShotData,
    ImageInput,
    Labels,
    MethodCard,
    Module,
    shift_weights,
)
from compatbench.method.trained import Batch, Recipe, TrainedMethod

from ._shared.texts import Templates, zero_shot


class ProLIP(TrainedMethod):
    """z = s · cos(x (P + D), W_0), with x the rows that the image tower projects by P, ``[d, e]``.

    Fahes et al., *CLIP's Visual Embedding Projector is a Few-shot Cornucopia*, section 3. The
    loss is cross-entropy + λ ‖D‖², with the square of the Frobenius norm, and D starts at zero.
    λ is ``weight``, by default 1 over the number of shots, the authors' choice without
    validation images. The module holds D, so another backbone keeps its own projection, and its
    bias if it has one.

    Training takes 300 steps on all shots at once, each on another training view.
    """

    card = MethodCard(
        name="prolip",
        title="ProLIP",
        paper="arXiv:2410.05270",
        inserts="feature",
        summary="fine-tunes the image tower's last projection, near its first value",
        zero_shot_at={"projection": 0.0},
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(
            optimizer="adam",
            lr=1e-4,
            eps=1e-4,
            weight_decay=0,
            epochs=300,
            batch_size=2**20,  # all shots
            warmup_epochs=0,
            schedule="cosine-step",
        )
        templates: Templates = "first"
        weight: NonNegativeFloat | None = None

    config: Config

    def image_input(self, backbone: Backbone) -> ImageInput:
        return POOLED

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        start = torch.zeros(backbone.image.width, backbone.embed_dim, device=backbone.device)
        return Module({"projection": start})

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        weight = 1 / data.shots if self.config.weight is None else self.config.weight

        def loss(module: Module, batch: Batch) -> Tensor:
            logits = self.attach(module, backbone, data.labels)(batch.inputs)
            penalty = weight * module["projection"].square().sum()
            return F.cross_entropy(logits, batch.targets) + penalty

        module = self.init(backbone, data, rng)
        return self.train(module, loss, backbone, data, rng)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        change = module["projection"]
        tower = backbone.image
        # Only for its check that the difference fits. The classifier adds the rows' change
        # itself, because changed weights would have the tower's precision.
        shift_weights(tower.weights, {"proj": change}, "image")
        text = zero_shot(backbone, labels, self.config.templates)
        compare = CosineClassifier(text, backbone.logit_scale)
        return lambda rows: compare(tower.project(rows) + rows @ change)
