"""Small networks: as they start, and the adapter of CLIP-Adapter."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.method import Backbone


def draw_linear(shape: tuple[int, ...], fan_in: int, rng: torch.Generator) -> Tensor:
    """The default initialisation of ``nn.Linear``: uniform within ± 1/√fan-in."""
    return (torch.rand(shape, generator=rng) * 2 - 1) / math.sqrt(fan_in)


def draw_bottleneck(
    backbone: Backbone, reduction: int, width: int, rng: torch.Generator
) -> dict[str, Tensor]:
    """Two layers from the joint space to ``width`` through e/reduction units."""
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
    """ratio · ReLU(up ReLU(down f)) + (1 − ratio) · f, ``[n, e]``."""
    return ratio * F.relu(F.relu(features @ down.T) @ up.T) + (1 - ratio) * features
