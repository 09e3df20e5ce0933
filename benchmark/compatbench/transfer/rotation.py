"""The rotation between two joint spaces that the same texts determine, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# A direction counts towards the rank if its singular value exceeds this share of the largest.
NEGLIGIBLE = 1e-6
# The weight of what decides where the texts do not, relative to the largest singular value.
# It is far below what any text contributes.
UNDETERMINED = 1e-12


@dataclass(frozen=True)
class Rotation:
    """Target ≈ source · R, both centred.

    Attributes:
        rotation: R ``[e_s, e_t]``, semi-orthogonal: R Rᵀ = I if e_s <= e_t, RᵀR = I if
            e_s >= e_t; float64.
        source_mean: weighted mean of the source's features, ``[e_s]``.
        target_mean: the same of the target's, ``[e_t]``.
        residual: what rotation and one scale leave of the differences, 0 to 1: with σ the
            singular values of A_cᵀ B_c, 1 - (Σ σ)² / (‖A_c‖² ‖B_c‖²).
        rank: directions that the texts determine.
    """

    rotation: Tensor
    source_mean: Tensor
    target_mean: Tensor
    residual: float
    rank: int

    @property
    def determined(self) -> bool:
        """Whether the texts determine the whole rotation."""
        return self.rank == min(self.rotation.shape)

    def back(self, features: Tensor, centred: bool = False) -> Tensor:
        """Target features ``[..., e_t]`` in the source's coordinates, f Rᵀ ``[..., e_s]``.

        Args:
            centred: rotate about the means of the texts: (f - m_t) Rᵀ + m_s.
        """
        rotation = self.rotation.to(features)
        if not centred:
            return features @ rotation.T
        source, target = self.source_mean.to(features), self.target_mean.to(features)
        return (features - target) @ rotation.T + source

    def forward(self, features: Tensor, centred: bool = False) -> Tensor:
        """Source features ``[..., e_s]`` in the target's coordinates, f R ``[..., e_t]``."""
        rotation = self.rotation.to(features)
        if not centred:
            return features @ rotation
        source, target = self.source_mean.to(features), self.target_mean.to(features)
        return (features - source) @ rotation + target


def fit_rotation(source: Tensor, target: Tensor, weights: Tensor | None = None) -> Rotation:
    """The semi-orthogonal R that minimises Σ_v w_v ‖(a_v - ā) R - (b_v - b̄)‖², or maximises the
    matching inner products where the sizes differ (orthogonal Procrustes, Schönemann 1966).

    With U S Vᵀ the singular value decomposition of A_cᵀ diag(w) B_c, R = U Vᵀ. Directions that
    the texts do not determine are matched by number, which is arbitrary but the same every time.

    Args:
        source: features of V texts on the source, ``[V, e_s]``.
        target: features of the same texts on the target, ``[V, e_t]``.
        weights: one per text, ``[V]``, not negative; equal by default.

    Raises:
        ValueError: shapes that do not fit, weights that are negative or all zero, or one side
            is constant.
    """
    if source.ndim != 2 or target.ndim != 2 or len(source) != len(target):
        raise ValueError(f"features {[*source.shape]} and {[*target.shape]} are not of one list")
    # On the processor, for not every accelerator has double precision.
    a, b = source.detach().cpu().double(), target.detach().cpu().double()
    w = torch.ones(len(a)) if weights is None else weights
    w = w.to(a)
    if w.shape != (len(a),) or bool((w < 0).any()) or not float(w.sum()) > 0:
        raise ValueError("weights must be one number per text, not negative, and not all zero")
    w = (w / w.sum())[:, None]
    source_mean, target_mean = (w * a).sum(0), (w * b).sum(0)
    a, b = a - source_mean, b - target_mean
    product = a.T @ (w * b)
    sizes = float((w * a * a).sum() * (w * b * b).sum())
    largest = float(torch.linalg.matrix_norm(product, ord=2))
    if largest == 0:
        raise ValueError("one side has the same features for all texts")
    eye = torch.eye(*product.shape).to(product)
    u, s, v = torch.linalg.svd(product + UNDETERMINED * largest * eye, full_matrices=False)
    return Rotation(
        rotation=u @ v,
        source_mean=source_mean,
        target_mean=target_mean,
        residual=max(0.0, 1 - float(s.sum()) ** 2 / sizes),
        rank=int((s > NEGLIGIBLE * largest).sum()),
    )
