"""Methods inside the towers: adapters beside MLPs, and prompts that two views agree on."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    CosineClassifier,
    FewShotData,
    ImageInput,
    Labels,
    MethodCard,
    Module,
    require_blocks,
    require_shape,
)
from compatbench.method.trained import Batch, TrainedMethod

# The adapted blocks; mini models have four.
FIRST = 2
BLOCKS = 1
WIDTH = 4


class SideAdapters(TrainedMethod):
    """y + U relu(D x) for y = MLP(x), in some blocks of both towers."""

    card = MethodCard(
        name="outside_adapters",
        title="Side adapters",
        paper="an example",
        inserts=("text-layers", "image-layers"),
        summary="bottlenecks beside MLPs of both towers",
        zero_shot_at={"*_up": 0.0},
    )

    def image_input(self, backbone: Backbone) -> ImageInput:
        return ImageInput("hidden", block=FIRST)

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        trained = {}
        for name, tower in (("text", backbone.text), ("image", backbone.image)):
            down = torch.randn(BLOCKS, WIDTH, tower.width, generator=rng) / tower.width**0.5
            trained |= {f"{name}_down": down, f"{name}_up": torch.zeros_like(down.mT)}
        return Module(trained).to(backbone.device)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        updates = {}
        for name, tower in (("text", backbone.text), ("image", backbone.image)):
            down = require_shape(module, f"{name}_down", tower.width, f"{name} tokens of width")
            require_blocks(FIRST + BLOCKS, tower.depth, name)

            def beside(
                output: Tensor, entering: Tensor, down: Tensor, up: Tensor, i: int
            ) -> Tensor:
                return output + F.relu(entering @ down[i].T) @ up[i].T

            update = partial(beside, down=down, up=module[f"{name}_up"])
            updates[name] = {(FIRST + i, "mlp"): partial(update, i=i) for i in range(BLOCKS)}
        prompts = backbone.text_prompts(labels.fill())
        texts = backbone.encode_prompts(prompts, block_updates=updates["text"])
        compare = CosineClassifier(texts, backbone.logit_scale)
        encode = backbone.image.encode
        return lambda tokens: compare(encode(tokens, block=FIRST, block_updates=updates["image"]))


class Prompted(CosineClassifier):
    """Compares the first view of an image; ``encode`` gives features of any tokens."""

    def __init__(self, weights: Tensor, scale: float, backbone: Backbone, prompt: Tensor) -> None:
        super().__init__(weights, scale)
        self.backbone = backbone
        self.prompt = prompt

    def view(self, inputs: Tensor, number: int) -> Tensor:
        """Features ``[batch, e]`` of a view of inputs ``[batch, 1 + views, tokens, d]``."""
        prompts = [self.prompt]
        return self.backbone.image.encode(inputs[:, number], block=FIRST, prompts=prompts)

    def encode(self, inputs: Tensor) -> Tensor:
        return self.view(inputs, 0)


class TwoViews(TrainedMethod):
    """Image prompts p, with cross-entropy + w · (1 − cos(f(x; p), f(x'; p))) over two views."""

    card = MethodCard(
        name="outside_two_views",
        title="Two views",
        paper="an example",
        inserts="image-layers",
        summary="image prompts for which an image and its augmentation are alike",
    )

    class Config(TrainedMethod.Config):
        weight: float = 1.0

    config: Config

    def image_input(self, backbone: Backbone) -> ImageInput:
        return ImageInput("hidden", block=FIRST, views=1)

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        prompt = 0.02 * torch.randn(2, backbone.image.width, generator=rng)
        return Module({"prompt": prompt}).to(backbone.device)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Prompted:
        prompt = require_shape(module, "prompt", backbone.image.width, "image tokens of width")
        require_blocks(FIRST + 1, backbone.image.depth, "image")
        return Prompted(backbone.zero_shot(labels), backbone.logit_scale, backbone, prompt)

    def loss(self, classifier: Prompted, batch: Batch) -> Tensor:
        first = classifier.view(batch.inputs, 0)
        second = classifier.view(batch.inputs, 1)
        agreement = F.cosine_similarity(first, second).mean()
        loss = F.cross_entropy(classifier.classify(first), batch.targets)
        return loss + self.config.weight * (1 - agreement)
