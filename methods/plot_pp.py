"""PLOT++: optimal transport matches several features of an image to several of a class.

Several sets of learned tokens give several features of an image, and several contexts give several
of a class. The two sets are matched by optimal transport, without any patches.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.errors import CompatbenchError
from compatbench.method import (
    Backbone,
    FewShotData,
    ImageInput,
    Labels,
    MethodCard,
    Module,
    require_shape,
)
from compatbench.method.trained import Batch, TrainedMethod

from .plot import PLOT, PatchClassifier


class PLOTPlusPlus(TrainedMethod):
    """M sets of image prompts give M features of an image, and N contexts give N of a class.

    Chen et al., *PLOT: Prompt Learning with Optimal Transport for Vision-Language Models*, and
    the authors' code for ViTs. With f_m the feature of the image whose tokens are followed by
    set m before the first block, and t_cn that of class c under context n, the logit is PLOT's,

        z_c = s · Σ_mn T_mn ⟨f̂_m, t̂_cn⟩,

    without any patches. The first stage trains the image prompts alone, and adds s · cos(mean
    f, mean t_c) to z_c; the second trains both kinds by z_c.

    In detail: M = 4 sets of 2 tokens are drawn from N(0, 0.02²). The contexts start at N = 4
    ``phrases``. All contexts have the length of the first phrase; the last words of a longer
    phrase stay fixed, and a shorter one is refused.
    """

    card = MethodCard(
        name="plot_pp",
        title="PLOT++",
        paper="arXiv:2210.01253",
        inserts=("text-input", "image-layers"),
        summary="several prompts of image and class, matched by optimal transport",
    )

    class Config(TrainedMethod.Config):
        phrases: tuple[str, ...] = Field(
            ("a photo of a", "this is a photo", "this is picture of", "one picture of a"),
            min_length=1,
        )
        image_prompts: PositiveInt = 4
        image_length: PositiveInt = 2
        epsilon: PositiveFloat = 0.1
        sinkhorn_steps: PositiveInt = 100
        tolerance: NonNegativeFloat = 1e-2

    config: Config

    def image_input(self, backbone: Backbone) -> ImageInput:
        return ImageInput("hidden", block=0)

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        config = self.config
        words = [backbone.embed_text(phrase) for phrase in config.phrases]
        length = len(words[0])
        for phrase, rows in zip(config.phrases, words, strict=True):
            if len(rows) < length:
                raise CompatbenchError(
                    f"method 'plot_pp': the phrase '{phrase}' is {len(rows)} tokens, fewer than "
                    f"the first of 'phrases' ({length}); give one that is no shorter"
                )
        contexts = torch.stack([rows[:length] for rows in words])
        shape = (config.image_prompts, config.image_length, backbone.image.width)
        prompts = torch.randn(shape, generator=rng) * 0.02
        return Module({"contexts": contexts, "image_prompts": prompts.to(backbone.device)})

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        def loss(module: Module, batch: Batch) -> Tensor:
            # Only the first stage has stored tensors: the contexts, which it does not train.
            is_first_stage = bool(module.stored)
            classify = self.match(module, backbone, data.labels, pooled=is_first_stage)
            return F.cross_entropy(classify(batch.inputs), batch.targets)

        prompts = self.init(backbone, data, rng).trained
        contexts = {"contexts": prompts.pop("contexts")}
        first = self.train(Module(prompts, contexts), loss, backbone, data, rng, share=0.5)
        return self.train(Module(first.tensors), loss, backbone, data, rng, share=0.5)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> SetClassifier:
        return self.match(module, backbone, labels, pooled=False)

    def match(
        self, module: Module, backbone: Backbone, labels: Labels, pooled: bool
    ) -> SetClassifier:
        """Return the classifier of a stage.

        Args:
            pooled: add the similarity of the mean features, as the first stage does.
        """
        contexts = require_shape(module, "contexts", backbone.token_width, "text tokens of width")
        texts = []
        for phrase, context in zip(self.config.phrases, contexts, strict=True):
            remaining_words = backbone.embed_text(phrase)[len(context) :]
            prompts = backbone.prompts(labels, torch.cat([context, remaining_words]))
            texts.append(backbone.encode_prompts(prompts))
        settings = self.config.model_dump(include={"epsilon", "sinkhorn_steps", "tolerance"})
        transport = PLOT.Config(pooled=pooled, **settings)
        plans = PatchClassifier(torch.stack(texts), backbone.logit_scale, transport)
        sets = require_shape(module, "image_prompts", backbone.image.width, "image tokens of width")
        return SetClassifier(plans, backbone, sets)


class SetClassifier:
    """A classifier of image tokens by the features that each set of prompts gives.

    Args:
        plans: takes the mean feature and those of the sets, ``[batch, 1 + M, e]``.
        prompts: tokens of each set, ``[M, n, d]``.
    """

    def __init__(self, plans: PatchClassifier, backbone: Backbone, prompts: Tensor) -> None:
        self._plans = plans
        self._tower = backbone.image
        self._sets = [self._tower.enter(tokens) for tokens in prompts]

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return logits ``[batch, C]`` of tokens before the first block, ``[batch, tokens, d]``."""
        by_set = [self._tower.encode(tokens, prompts=[prompts]) for prompts in self._sets]
        features = torch.stack(by_set, dim=1)
        mean = features.mean(1, keepdim=True)
        return self._plans(torch.cat([mean, features], dim=1))
