"""Quick checks that the models are worth adapting: zero-shot, linear probe, CoOp."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from . import towers
from .tokenizer import CONTEXT_LENGTH, load_tokenizer

FIRST_WORDS = "a photo of a"


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Top-1 accuracy in percent of logits [N, C] against labels [N]."""
    return (logits.argmax(1) == labels).float().mean().item() * 100


@torch.no_grad()
def image_features(model: towers.Model, images: torch.Tensor) -> torch.Tensor:
    """Unit features, float [N, dim], of normalised images, float [N, 3, 48, 48]."""
    return torch.cat([towers.encode_images(model, part) for part in images.split(256)])


@torch.no_grad()
def zero_shot(
    model: towers.Model, classes: Sequence[str], templates: Sequence[str]
) -> torch.Tensor:
    """Class weights, float [C, dim]: unit means of the templates' unit text features."""
    tokenizer = load_tokenizer()
    features = [
        towers.encode_text(model, tokenizer([template.format(c) for c in classes]))
        for template in templates
    ]
    return F.normalize(torch.stack(features).mean(0), dim=-1)


def draw_shots(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Draws up to ``shots`` rows of every class; labels is int [N], the result int [M]."""
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:shots] for c in classes])


def linear_probe(features: torch.Tensor, labels: torch.Tensor, classes: int) -> nn.Linear:
    """Fits logistic regression on unit features, float [N, dim], and labels, int64 [N]."""
    torch.manual_seed(0)
    layer = nn.Linear(features.shape[1], classes)
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        # Unit features make small logits; the factor stands for a temperature.
        loss = F.cross_entropy(10 * layer(features), labels) + 1e-3 * layer.weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return layer.requires_grad_(False)


def coop(
    model: towers.Model,
    classes: Sequence[str],
    features: torch.Tensor,
    labels: torch.Tensor,
    tokens: int,
    steps: int = 200,
    rate: float = 2e-2,
) -> torch.Tensor:
    """Learns context tokens before the class names (CoOp, arXiv:2109.01134).

    Args:
        model: A frozen model.
        classes: Class names.
        features: Unit image features of the shots, float [N, dim].
        labels: int64 [N].
        tokens: How many context tokens; 4 start from "a photo of a", others at random.
        steps: Steps on all shots at once, with a cosine schedule.
        rate: Peak learning rate of AdamW.

    Returns:
        Class weights, float [C, dim].
    """
    tokenizer, tower = load_tokenizer(), towers.text_tower(model)
    if tokens == 4:
        start = tower.token_embedding(torch.tensor(tokenizer.encode(FIRST_WORDS))).detach()
    else:
        start = torch.randn(tokens, tower.token_embedding.embedding_dim) * 0.02
    context = nn.Parameter(start.clone())
    names = tokenizer([f"{c}." for c in classes])
    end = names.argmax(-1)
    length = min(int(end.max()) + 1, CONTEXT_LENGTH - tokens)
    embedded = tower.token_embedding(names[:, :length]).detach()
    optimiser = torch.optim.AdamW([context], lr=rate, weight_decay=0.0)
    scale = model.logit_scale.exp().detach()

    def weights() -> torch.Tensor:
        middle = context.expand(len(classes), -1, -1)
        prompts = torch.cat([embedded[:, :1], middle, embedded[:, 1:]], 1)
        return towers.encode_embeddings(model, prompts, end + tokens)

    for step in range(steps):
        factor = 0.5 * (1 + math.cos(math.pi * step / steps)) * min(1.0, (step + 1) / 10)
        optimiser.param_groups[0]["lr"] = rate * factor
        loss = F.cross_entropy(scale * features @ weights().T, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return weights().detach()
