"""The models' zero-shot classifiers, without the harness but for its patches: a check of both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from compatbench.backbone.image.tower import ImageTower

from . import towers
from .tokenizer import load_tokenizer


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Top-1 accuracy in percent of logits [N, C] against labels [N]."""
    return (logits.argmax(1) == labels).float().mean().item() * 100


@torch.no_grad()
def image_features(model: towers.Model, images: torch.Tensor) -> torch.Tensor:
    """Unit features, float [N, dim], of normalised images, float [N, 3, 48, 48]."""
    return torch.cat([towers.encode_images(model, part) for part in images.split(256)])


@torch.no_grad()
def patch_features(model: towers.Model, images: torch.Tensor) -> torch.Tensor:
    """Unit features of the patches, float [N, patches, dim], projected as the class token is."""
    tower = ImageTower(model.visual, "mini")
    parts = [tower.encode(tower.embed(part), dense=True)[:, 1:] for part in images.split(256)]
    return F.normalize(torch.cat(parts).float(), dim=-1)


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
