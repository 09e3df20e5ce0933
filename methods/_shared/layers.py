"""Small networks: their initialisation and gradients, and the adapter of CLIP-Adapter."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.method import Backbone


def draw_linear(shape: tuple[int, ...], fan_in: int, rng: torch.Generator) -> Tensor:
    """Draw from U(±1/√fan-in), the default initialisation of ``nn.Linear``."""
    return (torch.rand(shape, generator=rng) * 2 - 1) / math.sqrt(fan_in)


def draw_bottleneck(
    backbone: Backbone, reduction: int, width: int, rng: torch.Generator
) -> dict[str, Tensor]:
    """Draw two layers from the embedding space ``e`` to ``width``, through e/reduction units."""
    size = backbone.embed_dim
    hidden = max(size // reduction, 1)
    tensors = {
        "down": draw_linear((hidden, size), size, rng),
        "down_bias": draw_linear((hidden,), size, rng),
        "up": draw_linear((width, hidden), hidden, rng),
        "up_bias": draw_linear((width,), hidden, rng),
    }
    return {name: tensor.to(backbone.device) for name, tensor in tensors.items()}


def adapt(features: Tensor, down: Tensor, up: Tensor, ratio: float) -> Tensor:
    """Return ratio · ReLU(up ReLU(down f)) + (1 − ratio) · f, ``[n, e]``."""
    hidden = F.relu(features @ down.T)
    return ratio * F.relu(hidden @ up.T) + (1 - ratio) * features


def divide_gradient(tensor: Tensor, factor: float) -> Tensor:
    """Return the same tensor; its gradient will be divided by a factor."""
    same = tensor.view_as(tensor)
    if same.requires_grad:
        same.register_hook(lambda gradient: gradient / factor)
    return same
