"""2SFS: first the layer norms of both towers are tuned, then a classifier on their features.

In the first part of the steps the factors and biases of the layer norms in both towers are
trained. Then the towers are frozen, and a residual on the text features is trained. So features
are learned before a classifier is fitted to them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    CosineClassifier,
    FewShotData,
    ImageInput,
    Labels,
    MethodCard,
    Module,
    shift_weights,
)
from compatbench.method.trained import Batch, Recipe, TrainedMethod

from ._shared.texts import Template


class TwoSFS(TrainedMethod):
    """z_c = s · cos(f', t'_c + r_c), with f' and t' behind towers whose layer norms are tuned.

    Farina et al., *Rethinking Few-Shot Adaptation of Vision-Language Models in Two Stages*,
    section 4. In the first ``first_share`` of the steps every γ and β of both towers is trained
    and r = 0; in the rest they are frozen and r is trained. Each stage has cross-entropy and a
    cosine over its own steps; t' is normalised, of the ``template`` or else the task's first.

    In detail: the module holds differences, Δγ and Δβ by the towers' common names, and r. So a
    backbone keeps its own norms and texts. Only norms that both CLIP and EVA-CLIP have are
    tuned: not CLIP's ``ln_pre``, 1,536 of the paper's 65,536 numbers, nor EVA's inside
    attention and MLP.
    """

    card = MethodCard(
        name="twosfs",
        title="2SFS",
        paper="arXiv:2503.11609",
        inserts=("text-layers", "image-layers", "classifier"),
        summary="tunes layer norms of both towers, then class weights",
        zero_shot_at={"*": 0.0},
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(
            optimizer="adamw", lr=2e-4, weight_decay=1e-2, schedule="cosine-step", final_lr=1e-6
        )
        steps_per_shot: PositiveInt = 300
        first_share: float = Field(default=0.6, gt=0, lt=1)
        template: Template | None = None

    config: Config

    def image_input(self, backbone: Backbone) -> ImageInput:
        return ImageInput("hidden", block=0)

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        trained = {"residual": torch.zeros(len(data.labels), backbone.embed_dim)}
        for kind, tower in (("text", backbone.text), ("image", backbone.image)):
            for name, weight in tower.weights.items():
                if re.search(r"\bln_(1|2|post|final)\.", name):
                    trained[f"{kind}.{name}"] = torch.zeros(weight.shape)
        return Module(trained).to(backbone.device)

    def epochs(self, shots: int, per_epoch: int) -> int:
        return math.ceil(self.config.steps_per_shot * shots / per_epoch)

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        # Epochs are counted without a suite's cap on steps: ``train`` gives each stage its share
        # of the cap.
        uncapped = TwoSFS(self.config.model_copy(update={"max_steps": None}))
        epochs = uncapped.count_epochs(data.shots, len(data.train))
        share = self.config.first_share
        first_epochs = math.ceil(share * epochs)

        def tune_norms(module: Module, batch: Batch) -> Tensor:
            return self.loss(self.attach(module, backbone, data.labels), batch)

        differences = self.init(backbone, data, rng).trained
        residual = {"residual": differences.pop("residual")}
        # The first stage trains the differences; the residual is stored, and stays 0.
        start = Module(differences, residual)
        norms = self.train(start, tune_norms, backbone, data, rng, epochs=first_epochs, share=share)
        tuned = self.attach(norms, backbone, data.labels)

        def tune_head(module: Module, batch: Batch) -> Tensor:
            classify = CosineClassifier(tuned.text + module["residual"], backbone.logit_scale)
            return F.cross_entropy(classify(tuned.encode(batch.inputs)), batch.targets)

        head = self.train(
            Module(residual),
            tune_head,
            backbone,
            data,
            rng,
            epochs=epochs - first_epochs,
            share=1 - share,
        )
        return Module(norms.trained | head.trained)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> TunedTowers:
        return TunedTowers(module, backbone, labels.fill(self.config.template))


class TunedTowers(CosineClassifier):
    """A cosine classifier behind towers with a module's differences.

    Attributes:
        text: t', ``[C, e]``.
    """

    def __init__(self, module: Module, backbone: Backbone, texts: tuple[str, ...]) -> None:
        text_differences = _with_prefix(module.tensors, "text.")
        weights = shift_weights(backbone.text.weights, text_differences)
        features = backbone.encode_prompts(backbone.text_prompts(texts), weights)
        self.text = F.normalize(features, dim=-1)
        # Also refuses a residual of another shape than the texts.
        head = shift_weights({"residual": self.text}, {"residual": module["residual"]})
        super().__init__(head["residual"], backbone.logit_scale)
        self._tower = backbone.image
        image_differences = _with_prefix(module.tensors, "image.")
        self._weights = shift_weights(backbone.image.weights, image_differences, "image")

    def encode(self, inputs: Tensor) -> Tensor:
        """Return image features, ``[batch, e]``, of tokens ``[batch, tokens, d]``."""
        return self._tower.encode(inputs, weights=self._weights)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, by their names without it."""
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            found[name.removeprefix(prefix)] = tensor
    return found
