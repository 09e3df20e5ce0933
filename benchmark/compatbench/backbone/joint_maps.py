"""Linear maps between two joint spaces, found from features of the same texts or images.

Features are tensors or numpy arrays, and so is what is made of them; of arrays without torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", "Tensor", NDArray[Any])

# Normalised features that differ by no more are the same model's; of two models some of the
# thousands of words always differ by far more.
SAME = 1e-3
# Of ``find_affine`` and ``find_ridge``, by this project's choice.
RANK, DAMPING = 32, 0.01
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
    rotation: Any
    source_mean: Any  # of the source's features, ``[e_s]``
    target_mean: Any  # of the target's, ``[e_t]``
    # What rotation and one scale leave of the differences, 0 to 1: with σ the singular values of
    # A_cᵀ B_c, 1 - (Σ σ)² / (‖A_c‖² ‖B_c‖²).
    residual: float
    rank: int  # directions that the texts determine


def _library(features: Any) -> Any:
    """numpy or torch, whichever has made the features."""
    return np if isinstance(features, np.ndarray) else sys.modules["torch"]


def _double(features: Any) -> Any:
    """In double precision, on the processor, for not every accelerator has it."""
    if isinstance(features, np.ndarray):
        return features.astype(np.float64)
    return features.detach().cpu().double()


def _eye(like: Any, rows: int, columns: int | None = None) -> Any:
    eye = _library(like).eye(rows, columns or rows)
    return eye if isinstance(like, np.ndarray) else eye.to(like)


def fit_rotation(source: Array, target: Array, centred: bool = True) -> Rotation:
    """The semi-orthogonal R that minimises Σ_v ‖(a_v - ā) R - (b_v - b̄)‖², or maximises the
    matching inner products where the sizes differ (orthogonal Procrustes, Schönemann 1966).

    With U S Vᵀ the singular value decomposition of A_cᵀ B_c / V, R = U Vᵀ. Directions that
    the texts do not determine are matched by number, which is arbitrary but the same every time.

    Both are features of the same V texts, ``[V, e_s]`` and ``[V, e_t]``; if they are not to be
    ``centred``, both means are zero. A side that is constant is a ValueError.
    """
    a, b = _double(source), _double(target)
    linalg, w = _library(a).linalg, 1 / len(a)
    source_mean, target_mean = (w * a).sum(0) * centred, (w * b).sum(0) * centred
    a, b = a - source_mean, b - target_mean
    product = a.T @ (w * b)
    sizes = float((w * a * a).sum() * (w * b * b).sum())
    largest = float(linalg.norm(product, 2))
    if largest == 0:
        raise ValueError("one side has the same features for all texts")
    eye = _eye(product, *product.shape)
    u, s, v = linalg.svd(product + UNDETERMINED * largest * eye, full_matrices=False)
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


def paired(source: Array, target: Array) -> tuple[Array, Array]:
    """Features of the same images on both sides, normalised, in double precision."""

    def normalise(features: Any) -> Any:
        if isinstance(features, np.ndarray):
            features = features.astype(np.float64)
            return features / np.linalg.norm(features, axis=-1, keepdims=True).clip(1e-12)
        return _library(features).nn.functional.normalize(features.double(), dim=-1)

    return normalise(source), normalise(target)


def find_turn(source: Array, target: Array) -> Array:
    """R = U Vᵀ with U S Vᵀ = svd(F_sᵀ F_t), ``[e_s, e_t]``; features are not centred."""
    u, _, v = _library(source).linalg.svd(source.T @ target, full_matrices=False)
    return u @ v


def find_affine(
    source: Array, target: Array, rotation: Array, rank: int = RANK, damping: float = DAMPING
) -> tuple[Array, Array]:
    """M ``[e_t, e_s]`` and b ``[e_s]`` with f_s ≈ f_t M + b, where M - Rᵀ has the rank at most."""
    left = source - target @ rotation.T
    x, y = target - target.mean(0), left - left.mean(0)
    eye, linalg = _eye(x, x.shape[1]), _library(x).linalg
    full = linalg.solve(x.T @ x + len(x) * damping * eye, x.T @ y)
    kept = linalg.svd(x @ full, full_matrices=False).Vh[:rank]
    change = full @ kept.T @ kept
    return rotation.T + change, left.mean(0) - target.mean(0) @ change


def choose_damping(
    source: Array, target: Array, prior: Array, dampings: Sequence[float] = DAMPINGS
) -> float:
    """The λ that is best on the first quarter of the images, for a map fitted on the others."""
    held, distances = len(target) // 4, []
    for damping in dampings:
        fitted = find_ridge(source[held:], target[held:], prior, damping)
        distances.append(float(((target[:held] @ fitted - source[:held]) ** 2).sum()))
    return dampings[distances.index(min(distances))]


def find_ridge(source: Array, target: Array, prior: Array, damping: float) -> Array:
    """The M ``[e_t, e_s]`` that minimises ‖F_t M - F_s‖² / n + λ ‖M - M₀‖²."""
    n = len(target)
    left = target.T @ target + n * damping * _eye(target, target.shape[1])
    return _library(target).linalg.solve(left, target.T @ source + n * damping * prior)
