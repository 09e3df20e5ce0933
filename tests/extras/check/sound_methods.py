"""Methods that keep every rule. This file is checked itself; ``faults`` breaks a part of each."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import PIXELS
from compatbench.method import CosineClassifier, Method, MethodCard, Module, require_shape
from compatbench.method.trained import TrainedMethod


def describe(**changes: object) -> MethodCard:
    """Return the card of a sound method with some changes."""
    values: dict = {
        "name": "Sound",
        "title": "Sound",
        "paper": "none",
        "inserts": "classifier",
        "summary": "a residual on the class weights towards the mean of the shots",
        "zero_shot_at": {"residual": 0},
    }
    return MethodCard(**values | changes)


class Sound(Method):
    """w_c = t_c + x_c, with x_c a little of the mean feature of class c, and noise."""

    card = describe()
    fixed = (-1, 0)  # dimensions of the residual whose sizes have to fit

    def __init_subclass__(cls) -> None:
        cls.card = replace(cls.card, name=cls.__name__)

    def fit(self, backbone, data, rng):
        self.begin(backbone, data, rng)
        residual = 0.01 * torch.randn(len(data.labels), backbone.embed_dim, generator=rng)
        for c in range(len(data.labels)):
            own = data.train.plain[data.train.targets == c]
            if len(own):
                residual[c] += 0.1 * F.normalize(own.mean(0), dim=0)
        return self.end(Module(trained={"residual": residual}), backbone, data)

    def attach(self, module, backbone, labels):
        sizes = (len(labels), "a number of classes of"), (backbone.embed_dim, "features of size")
        for dim in self.fixed:
            require_shape(module, "residual", *sizes[dim], dim=dim)
        weights = self.weigh(backbone.zero_shot(labels), module, backbone, labels)

        def classify(features: Tensor) -> Tensor:
            features = F.normalize(self.see(features), dim=-1)
            return self.answer(backbone.logit_scale * features @ weights.T)

        return classify

    # Faulty methods override these.
    def begin(self, backbone, data, rng) -> None: ...

    def end(self, module, backbone, data):
        return module

    def weigh(self, text, module, backbone, labels):
        return text + module["residual"]

    def see(self, features):
        return features

    def answer(self, logits):
        return logits


class Free(Sound):
    """A method that is zero-shot at no setting."""

    card = describe(zero_shot_at={})


class Told(Sound):
    """A method that uses everything that a card can ask for."""

    card = describe(needs={"descriptions", "unlabelled", "teacher", "stream"}, zero_shot_at={})

    class Config(Sound.Config):
        teacher: str = "another"

    def end(self, module, backbone, data):
        assert data.unlabelled.targets.unique().tolist() == [-1]
        told = data.teacher.data
        assert told.train.plain.shape[1] != backbone.embed_dim
        seen = data.unlabelled.plain.mean(0) + told.unlabelled.plain.mean()
        return Module({"residual": module["residual"] + 0.01 * seen + told.train.plain.mean()})

    def weigh(self, text, module, backbone, labels):
        described = torch.stack([rows.mean(0) for rows in backbone.describe(labels)])
        return module["residual"] + described

    def see(self, features):
        return features - 0.5 * features.mean(0)


class UpdatesBlocks(Sound):
    """A method that acts inside both towers."""

    card = describe(inserts=("text-layers", "image-layers"), zero_shot_at={})

    def image_input(self, backbone):
        return PIXELS

    def change(self, output: Tensor, shift: Tensor) -> Tensor:
        return output + shift

    def attach(self, module, backbone, labels):
        shift = module["residual"].mean()
        updates = {(1, "mlp"): lambda output, entering: self.change(output, shift)}
        prompts = backbone.text_prompts(labels.fill())
        compare = CosineClassifier(backbone.encode_prompts(prompts, block_updates=updates), 1.0)
        return lambda x: compare(backbone.image.encode(x, block_updates=updates))


class Scales(TrainedMethod):
    """f' = γ ⊙ f, then zero-shot classification. Mistakes in it are reported with their line."""

    card = MethodCard("Scales", "Scales", "none", "feature", "a scale of every channel")

    def __init_subclass__(cls) -> None:
        cls.card = replace(cls.card, name=cls.__name__)

    def init(self, backbone, data, rng):
        return Module(trained={"scale": 1 + 0.1 * torch.randn(backbone.embed_dim, generator=rng)})

    def attach(self, module, backbone, labels):
        scale = require_shape(module, "scale", backbone.embed_dim, "image features of size")
        compare = CosineClassifier(backbone.zero_shot(labels), backbone.logit_scale)
        return lambda features: compare(scale * features)


class Untrained(Scales):
    """A method that trains nothing, so no classifier is tried before ``attach`` is."""

    def fit(self, backbone, data, rng):
        shift = 0.1 * data.train.plain.mean(0)
        return Module({"scale": 1 + shift + 0.1 * torch.randn(shift.shape, generator=rng)})
