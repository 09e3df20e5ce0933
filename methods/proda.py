"""ProDA: many prompts, and the distribution of their class weights.

The class weights that the learned contexts give are treated as draws from a Gaussian. Training
minimises a bound on the expected loss under this Gaussian, and its mean classifies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    FewShotData,
    Labels,
    MethodCard,
    Module,
    require_shape,
)
from compatbench.method.trained import Batch, Recipe, TrainedMethod

from ._shared.prompts import Position, arrange


class ProDA(TrainedMethod):
    """K contexts, whose class weights are treated as draws from a Gaussian.

    Lu et al., *Prompt Distribution Learning*. With w_kc the normalised text feature of class c
    under context k, w̄_c the mean over contexts and Σ_cc' their covariances, each feature
    dimension by itself, the expected cross-entropy of an image f of class y is at most

        L = −log softmax_y( s ⟨w̄_c, f⟩ + ½ s² fᵀ(Σ_cc + Σ_yy − 2 Σ_cy) f )

    The loss adds λ times the mean absolute cosine between the features of different contexts
    without a name (semantic orthogonality). The mean w̄_c classifies. Neither the paper's text
    nor code could be read: formulas, recipe and λ are reconstructed.

    In detail: a quarter of the K = 32 contexts of 16 vectors are behind the name, a quarter
    around it, half before it. Each step draws 4 of them. λ = 0.1. Covariances are divided by
    the number of prompts plus one.
    """

    card = MethodCard(
        name="proda",
        title="ProDA",
        paper="arXiv:2205.03340",
        inserts="text-input",
        summary="learns a distribution over prompts",
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(lr=1e-3, batch_size=20, epochs=100)
        context_length: PositiveInt = 16
        prompts: PositiveInt = 32
        prompts_per_step: PositiveInt = 4
        weight: NonNegativeFloat = 0.1

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        shape = (self.config.prompts, self.config.context_length, backbone.token_width)
        contexts = torch.randn(shape, generator=rng) * 0.02
        return Module(trained={"contexts": contexts.to(backbone.device)})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        contexts = require_shape(module, "contexts", backbone.token_width, "text tokens of width")
        return PromptEnsemble(contexts, backbone, labels)

    def loss(self, classifier: PromptEnsemble, batch: Batch) -> Tensor:
        weights = classifier.weights_of(self._draw(batch.rng))
        images = F.normalize(batch.features, dim=-1)
        bound = upper_bound(weights, images, batch.targets, classifier.scale)
        return bound + self.config.weight * overlap(classifier.nameless_features())

    def _draw(self, rng: torch.Generator | None) -> Sequence[int]:
        """Draw the contexts of a step. Without a generator, as outside a fit, take all."""
        if rng is None:
            return range(self.config.prompts)
        order = torch.randperm(self.config.prompts, generator=rng)
        return order[: self.config.prompts_per_step].tolist()


class PromptEnsemble:
    """A classifier with the mean weight of each class over all contexts ``[K, M, D]``."""

    def __init__(self, contexts: Tensor, backbone: Backbone, labels: Labels) -> None:
        self.contexts = contexts
        self.scale = backbone.logit_scale
        self._backbone = backbone
        self._labels = labels

    def __call__(self, features: Tensor) -> Tensor:
        return self.scale * F.normalize(features, dim=-1) @ self.mean.T

    @cached_property
    def mean(self) -> Tensor:
        """The class weights w̄_c, ``[C, e]``, computed when first needed: training never does."""
        return self.weights_of(range(len(self.contexts))).mean(0)

    def weights_of(self, chosen: Sequence[int]) -> Tensor:
        """Return normalised class weights under the contexts with these numbers, ``[k, C, e]``."""
        weights = []
        for k in chosen:
            position = name_position(k, len(self.contexts))
            prompts = arrange(self._backbone, self._labels, self.contexts[k], position)
            weights.append(F.normalize(self._backbone.encode_prompts(prompts), dim=-1))
        return torch.stack(weights)

    def nameless_features(self) -> Tensor:
        """Return features of the contexts without a class name, ``[K, e]``."""
        nameless = Labels(("",), ("{}",), "{}")
        prompts = self._backbone.image_prompts(nameless, self.contexts)
        return self._backbone.encode_prompts(prompts)[:, 0]


def name_position(k: int, count: int) -> Position:
    """Return the position of the name in the k-th of the contexts."""
    quarter = count // 4
    if k < quarter:
        return "front"
    if k < 2 * quarter:
        return "middle"
    return "end"


def upper_bound(weights: Tensor, images: Tensor, targets: Tensor, scale: float) -> Tensor:
    """Return the bound on the expected cross-entropy, the mean over images.

    Args:
        weights: normalised class weights of some contexts, ``[k, C, e]``.
        images: normalised image features, ``[B, e]``.
        targets: labels, ``[B]``.
        scale: the factor s.
    """
    mean = weights.mean(0)
    centred = weights - mean
    squares = images.square()
    # fᵀ Σ_cc f and fᵀ Σ_cy f, both [B, C], times the k + 1 by which covariances are divided.
    variances = squares @ centred.square().sum(0).T
    weighted = squares * centred[:, targets]
    covariances = torch.einsum("kbe,kce->bc", weighted, centred)
    own_variances = variances.gather(1, targets[:, None])
    spread = (variances + own_variances - 2 * covariances) / (len(weights) + 1)
    return F.cross_entropy(scale * images @ mean.T + 0.5 * scale**2 * spread, targets)


def overlap(features: Tensor) -> Tensor:
    """Return the mean absolute cosine between different rows of ``[K, e]``; 0 for one row."""
    features = F.normalize(features, dim=-1)
    cosines = (features @ features.T).abs()
    pairs = len(features) * (len(features) - 1)
    return (cosines.sum() - cosines.diagonal().sum()) / max(pairs, 1)
