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
    and steps are not known; those here are this project's. The target's zero-shot stays its own.
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
            return rotation, fit_net(source, target, rotation, self.config, data.generator())
        return rotation, linear(rotation.T)


@torch.enable_grad()
def fit_net(
    source: Tensor,
    target: Tensor,
    rotation: Tensor,
    config: Images.Config,
    generator: torch.Generator,
) -> Map:
    """g(f) = f Rᵀ + W₂ gelu(W₁ f + b), W₂ from zero, by Adam on the squared distance."""
    size = (config.width, target.shape[1])
    start = torch.randn(size, generator=generator) / size[1] ** 0.5
    first = start.to(target).requires_grad_()
    bias = target.new_zeros(config.width, requires_grad=True)
    second = target.new_zeros(source.shape[1], config.width, requires_grad=True)

    def see(features: Tensor) -> Tensor:
        f = features.to(rotation)
        return f @ rotation.T + nn.functional.gelu(f @ first.T + bias) @ second.T

    optimizer = torch.optim.Adam([first, bias, second], lr=config.lr)
    for _ in range(config.steps):
        optimizer.zero_grad()
        (see(target) - source).square().sum(-1).mean().backward()
        optimizer.step()
    for tensor in (first, bias, second):
        tensor.requires_grad_(False)
    return see
