"""PromptKD: image prompts and a projection, taught by a larger model on unlabelled images.

A larger CLIP is first prompted on the few shots, and its class features are kept. Then the
student's image tower learns, on all training images without labels, to answer among these
features as the teacher does.
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
    3. First PromptSRC is fitted to the teacher with the few shots; its class features t_T are
    kept in the module, so that it serves these classes alone. Then all training images,
    without labels, teach the student: with f its image feature under n tokens in each of
    the first J blocks, and h(f) = W_2 ReLU(BN(W_1 f + b_1)) + b_2 of the teacher's size e_T,

        L = w · KL(softmax z_T ‖ softmax z_S), summed, over batch size times classes.

    BN normalises by the batch in a fit, and afterwards by the running mean and variance. Recipe:
    n = 4, J = 9, w = 1000, SGD at 5e-3, batch 8, 20 epochs; the teacher is OpenAI's ViT-L/14.
    The last step is kept; the authors keep the epoch that is best on test images.
    """

    card = MethodCard(
        name="promptkd",
        title="PromptKD",
        paper="arXiv:2403.02781",
        inserts=("image-layers", "feature", "classifier"),
        summary="image prompts taught by a prompted larger model on unlabelled images",
        needs={"teacher", "unlabelled"},
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(lr=5e-3, epochs=20, batch_size=8)
        teacher: str = "vit-l14-openai"
        teacher_recipe: Recipe = PromptSRC.Config(max_steps=None).recipe
        # Of the epochs whose prompts make the teacher's, in parts of them; see PromptSRC.
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
        size, wide = backbone.embed_dim, data.teacher.backbone.embed_dim
        ones, zeros = torch.ones(wide), torch.zeros(wide)
        drawn = {
            "down": draw_linear((wide, size), size, rng),
            "down_bias": draw_linear((wide,), size, rng),
            "gain": ones,
            "shift": zeros,
            "up": draw_linear((wide, wide), wide, rng),
            "up_bias": draw_linear((wide,), wide, rng),
        }
        drawn["image_prompts"] = draw_image_prompts(
            backbone, self.config.depth, self.config.length, rng
        )
        texts = data.teacher.backbone.zero_shot(data.labels)
        kept = {"mean": zeros, "variance": ones, "texts": texts}
        return Module(drawn, kept).to(backbone.device).detach()

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        assert data.teacher is not None
        cap = self.config.max_steps
        tuned = PromptSRC.Config(
            recipe=self.config.teacher_recipe,
            average_mean=self.config.teacher_mean,
            average_std=self.config.teacher_std,
            max_steps=cap and max(cap // 2, 1),
        )
        source, method = data.teacher.backbone, PromptSRC(tuned)
        teacher_module = method.fit(source, data.teacher.data, rng)
        with torch.no_grad():
            teacher = method.attach(teacher_module, source, data.labels)

        def loss(module: Module, batch: Batch) -> Tensor:
            assert batch.teacher is not None
            with torch.no_grad():
                taught = teacher(batch.teacher.inputs).log_softmax(-1)
            logits = Student(module, backbone, learning=True)(batch.inputs)
            divergence = F.kl_div(logits.log_softmax(-1), taught, reduction="sum", log_target=True)
            return self.config.weight * divergence / logits.numel()

        start = self.init(backbone, data, rng)
        start.stored["texts"] = teacher.weights
        on = backbone, data, rng
        return self.train(start, loss, *on, share=0.5, unlabelled=True)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Student:
        require_shape(module, "texts", len(labels), "a number of classes of", dim=0)
        require_shape(module, "down", backbone.embed_dim, "image features of size")
        return Student(module, backbone)


class Student(CosineClassifier):
    """Classifies image tokens, ``[batch, tokens, d]``, among the texts that a module keeps.

    With ``learning`` features are normalised by their batch, and the module's running mean and
    variance are brought up to date.
    """

    def __init__(self, module: Module, backbone: Backbone, learning: bool = False) -> None:
        super().__init__(module["texts"], backbone.logit_scale)
        first, *deep = module["image_prompts"]
        backbone.image.check_prompts([first, *deep])
        self._prompts = [backbone.image.enter(first), *deep]
        self._module, self._tower, self._learning = module, backbone.image, learning

    def encode(self, inputs: Tensor) -> Tensor:
        module, features = self._module, self._tower.encode(inputs, prompts=self._prompts)
        hidden = F.batch_norm(
            F.linear(features, module["down"], module["down_bias"]),
            module["mean"],
            module["variance"],
            module["gain"],
            module["shift"],
            training=self._learning,
        )
        return F.linear(F.relu(hidden), module["up"], module["up_bias"])
