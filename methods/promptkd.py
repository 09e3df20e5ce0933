"""PromptKD: a larger model teaches image prompts and a projection on unlabelled images.

Prompts are first learned for a larger CLIP on the few shots, and its class features are kept. Then
the student's image tower learns to classify all training images among these features as the
teacher does, without labels.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    CosineClassifier,
    FewShotData,
    ImageInput,
    Labels,
    MethodCard,
    Module,
    require_shape,
)
from compatbench.method.trained import Batch, Recipe, TrainedMethod

from ._shared.layers import draw_linear
from ._shared.towers import draw_image_prompts
from .promptsrc import PromptSRC


class PromptKD(TrainedMethod):
    """z_S = s · cos(h(f), t_T): a prompted image tower answers among the teacher's texts.

    Li et al., *PromptKD: Unsupervised Prompt Distillation for Vision-Language Models*, section
    3. First PromptSRC is fitted to the teacher with the few shots. The module keeps its class
    features t_T, so it serves these classes alone. Then the student is trained on all training
    images, without labels. With f its image feature under n tokens in each of the first J
    blocks, and h(f) = W_2 ReLU(BN(W_1 f + b_1)) + b_2 of the teacher's size e_T,

        L = w · KL(softmax z_T ‖ softmax z_S), summed, over batch size times classes.

    BN normalises by the batch in a fit, and afterwards by the running mean and variance. n = 4,
    J = 9, w = 1000; the teacher is OpenAI's ViT-L/14. The teacher's fit and the student's each
    get half of a suite's cap on steps.
    """

    card = MethodCard(
        name="promptkd",
        title="PromptKD",
        paper="arXiv:2403.02781",
        inserts=("image-layers", "feature", "classifier"),
        summary="image prompts taught by a larger model on unlabelled images",
        needs={"teacher", "unlabelled"},
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(lr=5e-3, epochs=20, batch_size=8)
        teacher: str = "vit-l14-openai"
        teacher_recipe: Recipe = PromptSRC.Config(max_steps=None).recipe
        # PromptSRC's ``average_mean`` and ``average_std`` in the teacher's fit.
        teacher_mean: Annotated[float, Field(ge=0, le=1)] = 0.6
        teacher_std: PositiveFloat = 0.6
        length: NonNegativeInt = 4
        depth: PositiveInt = 9
        weight: NonNegativeFloat = 1000.0

    config: Config

    def image_input(self, backbone: Backbone) -> ImageInput:
        return ImageInput("hidden", block=0)

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        assert data.teacher is not None
        size = backbone.embed_dim
        wide = data.teacher.backbone.embed_dim
        ones = torch.ones(wide)
        zeros = torch.zeros(wide)
        trained = {
            "down": draw_linear((wide, size), size, rng),
            "down_bias": draw_linear((wide,), size, rng),
            "gain": ones,
            "shift": zeros,
            "up": draw_linear((wide, wide), wide, rng),
            "up_bias": draw_linear((wide,), wide, rng),
        }
        trained["image_prompts"] = draw_image_prompts(
            backbone, self.config.depth, self.config.length, rng
        )
        texts = data.teacher.backbone.zero_shot(data.labels)
        stored = {"mean": zeros, "variance": ones, "texts": texts}
        # ``detach`` gives every tensor its own memory.
        return Module(trained, stored).to(backbone.device).detach()

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        assert data.teacher is not None
        max_steps = self.config.max_steps
        if max_steps is not None:
            max_steps = max(max_steps // 2, 1)
        teacher_method = PromptSRC(
            PromptSRC.Config(
                recipe=self.config.teacher_recipe,
                average_mean=self.config.teacher_mean,
                average_std=self.config.teacher_std,
                max_steps=max_steps,
            )
        )
        teacher_backbone = data.teacher.backbone
        teacher_module = teacher_method.fit(teacher_backbone, data.teacher.data, rng)
        with torch.no_grad():
            teacher = teacher_method.attach(teacher_module, teacher_backbone, data.labels)

        def loss(module: Module, batch: Batch) -> Tensor:
            assert batch.teacher is not None
            with torch.no_grad():
                target = teacher(batch.teacher.inputs).log_softmax(-1)
            student = Student(module, backbone, learning=True)
            logits = student(batch.inputs)
            divergence = F.kl_div(logits.log_softmax(-1), target, reduction="sum", log_target=True)
            return self.config.weight * divergence / logits.numel()

        start = self.init(backbone, data, rng)
        start.stored["texts"] = teacher.weights
        return self.train(start, loss, backbone, data, rng, share=0.5, unlabelled=True)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Student:
        require_shape(module, "texts", len(labels), "a number of classes of", dim=0)
        require_shape(module, "down", backbone.embed_dim, "image features of size")
        return Student(module, backbone)


class Student(CosineClassifier):
    """A classifier of image tokens, ``[batch, tokens, d]``, among the texts that a module keeps.

    With ``learning``, features are normalised by their batch, and each call updates the module's
    running mean and variance.
    """

    def __init__(self, module: Module, backbone: Backbone, learning: bool = False) -> None:
        super().__init__(module["texts"], backbone.logit_scale)
        first, *deep = module["image_prompts"]
        backbone.image.check_prompts([first, *deep])
        self._prompts = [backbone.image.enter(first), *deep]
        self._module = module
        self._tower = backbone.image
        self._learning = learning

    def encode(self, inputs: Tensor) -> Tensor:
        """Return h(f), ``[batch, e_T]``."""
        module = self._module
        features = self._tower.encode(inputs, prompts=self._prompts)
        hidden = F.batch_norm(
            F.linear(features, module["down"], module["down_bias"]),
            module["mean"],
            module["variance"],
            module["gain"],
            module["shift"],
            training=self._learning,
        )
        return F.linear(F.relu(hidden), module["up"], module["up_bias"])
