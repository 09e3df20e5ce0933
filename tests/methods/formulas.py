"""Formulas that many methods share, written out."""

from __future__ import annotations

import torch
from open_clip_reference import encode_texts
from torch import Tensor

from compatbench.backbone import Backbone, Labels


def cosine_logits(backbone: Backbone, texts: Tensor, images: Tensor) -> Tensor:
    """z_ic = s · ⟨f_i, t_c⟩ / (‖f_i‖ ‖t_c‖), ``[images, classes]``."""
    scale = backbone.model.logit_scale.exp()  # type: ignore[operator, union-attr]
    rows = [[scale * f.dot(t) / (f.norm() * t.norm()) for t in texts] for f in images]
    return torch.stack([torch.stack(row) for row in rows])


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """−(1/N) Σ_i log softmax(z_i)_{y_i}."""
    losses = [row.logsumexp(0) - row[y] for row, y in zip(logits, targets, strict=True)]
    return torch.stack(losses).mean()


def mean_cosine(texts: Tensor, others: Tensor) -> Tensor:
    """(1/C) Σ_c cos(t_c, t'_c)."""
    cosines = [a.dot(b) / (a.norm() * b.norm()) for a, b in zip(texts, others, strict=True)]
    return torch.stack(cosines).mean()


def unit(x: Tensor) -> Tensor:
    """Rows divided by their lengths."""
    return x / x.norm(dim=-1, keepdim=True)


def unit_texts(backbone: Backbone, labels: Labels) -> Tensor:
    """Normalised features of the first template, as open_clip gives them, ``[C, e]``."""
    return unit(encode_texts(backbone, [f"a photo of a {name}." for name in labels.names]))
