"""A map from the target's features to the source's, found from unlabelled images."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from compatbench.backbone.joint_maps import find_turn, paired
from compatbench.method import MethodConfig
from compatbench.method.transfer import JOINT_SPACE, TransferCard, TransferData

from ._shared.mapped import Map, MappedTransfer, linear


class Images(MappedTransfer):
    """The module sees g(f), with g fitted so that g(f_t) ≈ f_s for the same images.

    Vejendla, *Drift-Adapter*, in two of its three forms: an orthogonal turn (Procrustes), and with
    ``mlp`` a residual net that is added to the turn, so that sizes may differ. The paper's width
    and steps are not known; those here are this project's. The target's zero-shot classifier is
    not changed.
    """

    card = TransferCard(
        name="images",
        title="Drift-Adapter",
        paper="arXiv:2509.23471",
        access={"unlabelled"},
        summary="The target's image features are mapped to the source's, from unlabelled images.",
        takes=JOINT_SPACE,
        settings={"mlp": {"form": "mlp"}},
    )

    class Config(MethodConfig):
        form: Literal["turn", "mlp"] = "turn"
        width: PositiveInt = 128
        steps: NonNegativeInt = 100
        lr: PositiveFloat = 1e-3

    def find_map(self, data: TransferData) -> tuple[Tensor, Map]:
        source, target = paired(data.unlabelled.source, data.unlabelled.target)
        rotation = find_turn(source, target)
        if self.config.form == "mlp":
            net = fit_net(source, target, rotation, self.config, data.generator())
            return rotation, net
        return rotation, linear(rotation.T)


@torch.enable_grad()
def fit_net(
    source: Tensor,
    target: Tensor,
    rotation: Tensor,
    config: Images.Config,
    generator: torch.Generator,
) -> Map:
    """Fit g(f) = f Rᵀ + W₂ gelu(W₁ f + b) by Adam on the squared distance to the source's features.

    Args:
        source: features of images on the source, ``[images, e_s]``.
        target: features of the same images on the target, ``[images, e_t]``.
        rotation: R, ``[e_s, e_t]``.
        generator: draws W₁; b and W₂ start at zero.
    """
    source_size = source.shape[1]
    target_size = target.shape[1]
    drawn = torch.randn(config.width, target_size, generator=generator) / target_size**0.5
    first = drawn.to(target).requires_grad_()
    bias = target.new_zeros(config.width, requires_grad=True)
    second = target.new_zeros(source_size, config.width, requires_grad=True)

    def map_features(features: Tensor) -> Tensor:
        f = features.to(rotation)
        hidden = nn.functional.gelu(f @ first.T + bias)
        return f @ rotation.T + hidden @ second.T

    optimizer = torch.optim.Adam([first, bias, second], lr=config.lr)
    for _ in range(config.steps):
        optimizer.zero_grad()
        distances = (map_features(target) - source).square().sum(-1)
        distances.mean().backward()
        optimizer.step()
    for tensor in (first, bias, second):
        tensor.requires_grad_(False)
    return map_features
