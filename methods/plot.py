"""PLOT: optimal transport matches several prompts of a class to the patches of an image.

Each class has several learned contexts, which may describe different parts of an image. The logit
is the similarity of patches and contexts under the cheapest plan that matches the two sets.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import (
    DENSE,
    Backbone,
    FewShotData,
    ImageInput,
    Labels,
    MethodCard,
    Module,
    require_shape,
)
from compatbench.method.trained import Recipe, TrainedMethod


class PLOT(TrainedMethod):
    """N contexts of a class, matched to the patches of an image by optimal transport.

    Chen et al., *PLOT: Prompt Learning with Optimal Transport for Vision-Language Models*,
    section 3.2. With f_p the normalised feature of patch p and t_cn that of class c under
    context n, S_pn = ⟨f_p, t_cn⟩, and moving costs 1 − S. The logit is

        z_c = s · Σ_pn T_pn S_pn,   T = argmin ⟨T, 1 − S⟩ − ε H(T)

    over plans T whose rows sum to 1/P and whose columns sum to 1/N. Sinkhorn's steps find T (ε
    = 0.1, at most 100 of them), and no gradient flows through T. With ``pooled``, as the
    authors train on ImageNet, s · cos of the image's own feature and of the mean text feature
    is added.

    In detail: N = 4 contexts of 16 vectors are drawn from N(0, 0.02²). The patches of a ViT
    pass through the last norm and the projection, as its class token does. They need not lie
    near the texts, because only the class token was trained to. The authors' version for ViTs
    (PLOT++) uses no patches.
    """

    card = MethodCard(
        name="plot",
        title="PLOT",
        paper="arXiv:2210.01253",
        inserts="text-input",
        summary="several prompts, matched to image patches by optimal transport",
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(batch_size=128, epochs=50)
        prompts: PositiveInt = 4
        context_length: PositiveInt = 16
        epsilon: PositiveFloat = 0.1
        sinkhorn_steps: PositiveInt = 100
        tolerance: NonNegativeFloat = 1e-2
        pooled: bool = False

    config: Config

    def image_input(self, backbone: Backbone) -> ImageInput:
        return DENSE

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        shape = (self.config.prompts, self.config.context_length, backbone.token_width)
        contexts = torch.randn(shape, generator=rng) * 0.02
        return Module(trained={"contexts": contexts.to(backbone.device)})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> PatchClassifier:
        contexts = require_shape(module, "contexts", backbone.token_width, "text tokens of width")
        texts = backbone.encode_prompts(backbone.image_prompts(labels, contexts))
        return PatchClassifier(texts, backbone.logit_scale, self.config)


class PatchClassifier:
    """A classifier of dense image features by the transport between patches and prompts.

    Args:
        texts: text features of each class under each context, not normalised, ``[N, C, e]``.
        scale: the factor s.
    """

    def __init__(self, texts: Tensor, scale: float, config: PLOT.Config) -> None:
        self.texts = F.normalize(texts, dim=-1)
        self.pooled_texts = F.normalize(texts.mean(0), dim=-1)
        self.scale = scale
        self._config = config

    def __call__(self, dense: Tensor) -> Tensor:
        """Return logits ``[batch, C]`` of features ``[batch, 1 + P, e]``, the image's own first."""
        config = self._config
        images = F.normalize(dense, dim=-1)
        similarity = torch.einsum("bpe,nce->bcpn", images[:, 1:], self.texts)
        plan = transport_plan(
            similarity.detach(), config.epsilon, config.sinkhorn_steps, config.tolerance
        )
        logits = self.scale * (plan * similarity).sum((-2, -1))
        if config.pooled:
            logits = logits + self.scale * images[:, 0] @ self.pooled_texts.T
        return logits


def transport_plan(similarity: Tensor, epsilon: float, steps: int, tolerance: float) -> Tensor:
    """Solve entropic optimal transport between uniform marginals (Cuturi, arXiv:1306.0895).

    Args:
        similarity: one minus the cost of each move, ``[..., P, N]``.
        epsilon: weight of the entropy.
        steps: maximum number of scalings of rows and columns.
        tolerance: a problem is done when its row factors change by less, on average.

    Returns:
        The plans, ``[..., P, N]``; columns sum to 1/N exactly, rows to 1/P in the limit.
    """
    kernel = torch.exp((similarity - 1) / epsilon).contiguous()
    rows = torch.ones_like(kernel[..., :1])
    columns = torch.ones_like(kernel[..., :1, :].mT)
    # Each problem stops by itself: its factors stay as they are while others still run.
    running = torch.ones_like(kernel[..., :1, :1], dtype=torch.bool)
    for _ in range(steps):
        new_rows = 1 / (kernel.shape[-2] * (kernel @ columns))
        new_columns = 1 / (kernel.shape[-1] * (kernel.mT @ new_rows))
        change = (new_rows - rows).abs().mean(-2, keepdim=True)
        rows = torch.where(running, new_rows, rows)
        columns = torch.where(running, new_columns, columns)
        running = running & (change >= tolerance)
        if not running.any():
            break
    return rows * kernel * columns.mT
