"""2SFS: first the layer norms of both towers are tuned, then a classifier on what they give.

In the first part of the steps the factors and biases of the layer norms in both towers are
trained. Then the towers are frozen and a residual on the text features is trained, so that
features are learned before a classifier is fitted to them.
"""

from __future__ import annotations

import math
import re
from functools import partial

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


class TwoSFS(TrainedMethod):
    """z_c = s · cos(f', t'_c + r_c), with f' and t' behind towers whose layer norms are tuned.

    Farina et al., *Rethinking Few-Shot Adaptation of Vision-Language Models in Two Stages*,
    section 4. In the first ``first_share`` of the steps every γ and β of both towers is trained
    and r = 0; in the rest they are frozen and r is trained. Each stage has cross-entropy and a
    cosine over its own steps; t' is normalised, of the ``template`` or else the task's first.

    Stored are differences, Δγ and Δβ by the towers' common names and r, so that a backbone keeps
    norms and texts of its own. Only norms that CLIP and EVA-CLIP both have are tuned: not CLIP's
    ``ln_pre``, 1,536 of the paper's 65,536 numbers, nor EVA's inside attention and MLP. Recipe:
    AdamW, batch 32, 300 steps for each shot; weight decay pulls towards the backbone's weights.
    """

    card = MethodCard(
        name="twosfs",
        title="2SFS",
        paper="arXiv:2503.11609",
        inserts=("text-layers", "image-layers", "classifier"),
        summary="tunes the layer norms of both towers, then class weights",
        zero_shot_at={"*": 0.0},
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(
            optimizer="adamw", lr=2e-4, weight_decay=1e-2, schedule="cosine-step", final_lr=1e-6
        )
        steps_per_shot: PositiveInt = 300
        first_share: float = Field(default=0.6, gt=0, lt=1)
        template: str | None = None

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
        # Without a suite's cap, of which ``train`` gives each stage its share.
        uncapped = TwoSFS(self.config.model_copy(update={"max_steps": None}))
        epochs, share = uncapped.count_epochs(data.shots, len(data.train)), self.config.first_share
        first = math.ceil(share * epochs)

        def tune_norms(module: Module, batch: Batch) -> Tensor:
            return self.loss(self.attach(module, backbone, data.labels), batch)

        start, on = self.init(backbone, data, rng).trained, (backbone, data, rng)
        head = Module({"residual": start.pop("residual")})
        stage = partial(self.train)
        norms = stage(Module(start, head.trained), tune_norms, *on, epochs=first, share=share)
        tuned = self.attach(norms, backbone, data.labels)

        def tune_head(module: Module, batch: Batch) -> Tensor:
            classify = CosineClassifier(tuned.text + module["residual"], backbone.logit_scale)
            return F.cross_entropy(classify(tuned.encode(batch.inputs)), batch.targets)

        head = stage(head, tune_head, *on, epochs=epochs - first, share=1 - share)
        return Module(norms.trained | head.trained)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> TunedTowers:
        return TunedTowers(module, backbone, labels.fill(self.config.template))


class TunedTowers(CosineClassifier):
    """Cosine similarity behind towers with a module's differences; ``text`` is t', ``[C, e]``."""

    def __init__(self, module: Module, backbone: Backbone, texts: tuple[str, ...]) -> None:
        tensors, self.image = module.tensors, backbone.image
        text, image = (
            {name.removeprefix(kind): tensors[name] for name in tensors if name.startswith(kind)}
            for kind in ("text.", "image.")
        )
        weights = shift_weights(backbone.text.weights, text)
        features = backbone.encode_prompts(backbone.text_prompts(texts), weights)
        self.text = F.normalize(features, dim=-1)
        head = shift_weights({"residual": self.text}, {"residual": tensors["residual"]})
        super().__init__(head["residual"], backbone.logit_scale)
        self.image_weights = shift_weights(self.image.weights, image, "image")

    def encode(self, inputs: Tensor) -> Tensor:
        """Of tokens ``[batch, tokens, d]``."""
        return self.image.encode(inputs, weights=self.image_weights)
