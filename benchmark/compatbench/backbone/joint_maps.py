"""Linear maps between two joint spaces, found from features of the same texts or images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Normalised features that differ by no more are the same model's; of two models some of the
# thousands of words always differ by far more.
SAME = 1e-3
DAMPINGS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
# A direction counts towards the rank if its singular value exceeds this share of the largest.
NEGLIGIBLE = 1e-6
# The weight of what decides where the texts do not, relative to the largest singular value.
# It is far below what any text contributes.
UNDETERMINED = 1e-12


@dataclass(frozen=True)
class Rotation:
    """Target ≈ source · R, both centred."""

    # R ``[e_s, e_t]``, float64, semi-orthogonal: R Rᵀ = I if e_s <= e_t, RᵀR = I if e_s >= e_t.
    rotation: Tensor
    source_mean: Tensor  # of the source's features, ``[e_s]``
    target_mean: Tensor  # of the target's, ``[e_t]``
    # What rotation and one scale leave of the differences, 0 to 1: with σ the singular values of
    # A_cᵀ B_c, 1 - (Σ σ)² / (‖A_c‖² ‖B_c‖²).
    residual: float
    rank: int  # directions that the texts determine


def _double(features: Tensor) -> Tensor:
    """Return features in double precision, on the processor: not every accelerator has it."""
    return features.detach().cpu().double()


def fit_rotation(source: Tensor, target: Tensor, centred: bool = True) -> Rotation:
    """The semi-orthogonal R that minimises Σ_v ‖(a_v - ā) R - (b_v - b̄)‖², or maximises the
    matching inner products where the sizes differ (orthogonal Procrustes, Schönemann 1966).

    With U S Vᵀ the singular value decomposition of A_cᵀ B_c / V, R = U Vᵀ. Directions that
    the texts do not determine are matched by number, which is arbitrary but the same every time.

    Both are features of the same V texts, ``[V, e_s]`` and ``[V, e_t]``; if they are not to be
    ``centred``, both means are zero. A side that is constant is a ValueError.
    """
    a, b = _double(source), _double(target)
    w = 1 / len(a)
    source_mean, target_mean = (w * a).sum(0) * centred, (w * b).sum(0) * centred
    a, b = a - source_mean, b - target_mean
    product = a.T @ (w * b)
    sizes = float((w * a * a).sum() * (w * b * b).sum())
    largest = float(torch.linalg.norm(product, 2))
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


def find_rotation(source: Tensor, target: Tensor, centred: bool = True) -> Rotation | None:
    """The rotation from the source's word features ``[V, e_s]`` to the target's ``[V, e_t]``.

    None if both are the same model's, so that there is nothing to rotate.
    """
    target = target.to(source)
    if source.shape == target.shape and float((source - target).abs().max()) <= SAME:
        return None
    return fit_rotation(source, target, centred)


def paired(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Features of the same images on both sides, normalised, in double precision."""
    return F.normalize(source.double(), dim=-1), F.normalize(target.double(), dim=-1)


def find_turn(source: Tensor, target: Tensor) -> Tensor:
    """R = U Vᵀ with U S Vᵀ = svd(F_sᵀ F_t), ``[e_s, e_t]``; features are not centred."""
    u, _, v = torch.linalg.svd(source.T @ target, full_matrices=False)
    return u @ v


def choose_damping(
    source: Tensor, target: Tensor, prior: Tensor, dampings: Sequence[float] = DAMPINGS
) -> float:
    """The λ that is best on the first quarter of the images, for a map fitted on the others."""
    held, distances = len(target) // 4, []
    for damping in dampings:
        fitted = find_ridge(source[held:], target[held:], prior, damping)
        distances.append(float(((target[:held] @ fitted - source[:held]) ** 2).sum()))
    return dampings[distances.index(min(distances))]


def find_ridge(source: Tensor, target: Tensor, prior: Tensor, damping: float) -> Tensor:
    """The M ``[e_t, e_s]`` that minimises ‖F_t M - F_s‖² / n + λ ‖M - M₀‖²."""
    n = len(target)
    left = target.T @ target + n * damping * torch.eye(target.shape[1]).to(target)
    return torch.linalg.solve(left, target.T @ source + n * damping * prior)
