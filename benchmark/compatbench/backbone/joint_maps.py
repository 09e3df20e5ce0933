"""Linear maps between two embedding spaces, found from features of the same texts or images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Normalised features that differ by at most this much belong to the same model. Between two
# models, some of the thousands of words always differ by far more.
SAME = 1e-3
DAMPINGS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
# A direction counts towards the rank if its singular value exceeds this share of the largest.
NEGLIGIBLE = 1e-6
# The weight of the identity, which decides the directions that the texts leave undetermined,
# relative to the largest singular value. It is far below the weight of any text.
UNDETERMINED = 1e-12


@dataclass(frozen=True)
class Rotation:
    """A rotation R between two embedding spaces: target ≈ source · R, both centred."""

    # R ``[e_s, e_t]``, float64, semi-orthogonal: R Rᵀ = I if e_s <= e_t, RᵀR = I if e_s >= e_t.
    rotation: Tensor
    source_mean: Tensor  # mean of the source's features, ``[e_s]``
    target_mean: Tensor  # mean of the target's features, ``[e_t]``
    # The share of the differences that remains after the rotation and one scale, 0 to 1:
    # 1 - (Σ σ)² / (‖A_c‖² ‖B_c‖²), with σ the singular values of A_cᵀ B_c.
    residual: float
    rank: int  # number of directions that the texts determine


def _double(features: Tensor) -> Tensor:
    """Return features in double precision, on the processor: not every accelerator has it."""
    return features.detach().cpu().double()


def fit_rotation(source: Tensor, target: Tensor, centred: bool = True) -> Rotation:
    """Return the rotation R between features of the same V texts (orthogonal Procrustes).

    R is the semi-orthogonal matrix that minimises Σ_v ‖(a_v - ā) R - (b_v - b̄)‖², or, if the
    sizes differ, maximises the matching inner products (Schönemann 1966). With U S Vᵀ the
    singular value decomposition of A_cᵀ B_c / V, R = U Vᵀ. Directions that the texts do not
    determine are matched by number, which is arbitrary but the same every time.

    Args:
        source: features on the source, ``[V, e_s]``.
        target: features on the target, ``[V, e_t]``.
        centred: if False, both means are zero.

    Raises:
        ValueError: one side has the same features for all texts.
    """
    a = _double(source)
    b = _double(target)
    w = 1 / len(a)
    source_mean = (w * a).sum(0) * centred
    target_mean = (w * b).sum(0) * centred
    a = a - source_mean
    b = b - target_mean
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
    """Return the rotation from word features ``[V, e_s]`` of the source to the target's.

    The target's word features are ``[V, e_t]``. Return None if both belong to the same model,
    so that there is nothing to rotate.
    """
    target = target.to(source)
    if source.shape == target.shape and float((source - target).abs().max()) <= SAME:
        return None
    return fit_rotation(source, target, centred)


def paired(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return features of the same images on both sides, normalised, in double precision."""
    return F.normalize(source.double(), dim=-1), F.normalize(target.double(), dim=-1)


def find_turn(source: Tensor, target: Tensor) -> Tensor:
    """Return R = U Vᵀ with U S Vᵀ = svd(F_sᵀ F_t), ``[e_s, e_t]``; features are not centred."""
    u, _, v = torch.linalg.svd(source.T @ target, full_matrices=False)
    return u @ v


def choose_damping(
    source: Tensor, target: Tensor, prior: Tensor, dampings: Sequence[float] = DAMPINGS
) -> float:
    """Return the λ that is best on the first quarter of the images for a map of the others."""
    held_out = len(target) // 4
    distances = []
    for damping in dampings:
        fitted = find_ridge(source[held_out:], target[held_out:], prior, damping)
        errors = target[:held_out] @ fitted - source[:held_out]
        distances.append(float((errors**2).sum()))
    best = distances.index(min(distances))
    return dampings[best]


def find_ridge(source: Tensor, target: Tensor, prior: Tensor, damping: float) -> Tensor:
    """Return the M ``[e_t, e_s]`` that minimises ‖F_t M - F_s‖² / n + λ ‖M - M₀‖².

    λ is ``damping`` and M₀ is ``prior``.
    """
    n = len(target)
    left = target.T @ target + n * damping * torch.eye(target.shape[1]).to(target)
    right = target.T @ source + n * damping * prior
    return torch.linalg.solve(left, right)
