"""BitFit: only the biases of the text tower are trained.

The prompt stays hand-written, and the weights of the text tower stay as they are. The module holds
the difference of each bias, so another tower keeps its own biases.
"""

from __future__ import annotations

import torch

from compatbench.method import (
    Backbone,
    CosineClassifier,
    FewShotData,
    Labels,
    MethodCard,
    Module,
    shift_weights,
)
from compatbench.method.trained import Recipe, TrainedMethod


class BitFit(TrainedMethod):
    """Every bias b of the text tower becomes b + Δb; the prompt is hand-written.

    Ben Zaken et al., *BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based
    Masked Language-models*, section 3: the biases of attention, MLP and layer norms. Δb starts
    at zero. A backbone that lacks a bias of that name and size is refused. The image tower
    stays frozen because its biases have no counterpart in EVA-CLIP. No recipe for CLIP is
    published.
    """

    card = MethodCard(
        name="bitfit",
        title="BitFit (text)",
        paper="arXiv:2106.10199",
        inserts="text-layers",
        summary="trains the biases of the text tower",
        zero_shot_at={"*": 0.0},
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(optimizer="adamw", lr=1e-3, weight_decay=0.0)

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        biases = {}
        for name, weight in backbone.text.weights.items():
            if name.endswith("bias"):
                biases[name] = torch.zeros(weight.shape)
        return Module(biases).to(backbone.device)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> CosineClassifier:
        weights = shift_weights(backbone.text.weights, module.trained)
        features = backbone.encode_prompts(backbone.text_prompts(labels.fill()), weights)
        return CosineClassifier(features, backbone.logit_scale)
