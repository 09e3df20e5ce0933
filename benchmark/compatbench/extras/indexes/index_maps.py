"""Maps between the vectors of an old and a new model, for an index that was stored.

A transfer shows a module the target's features in the source's coordinates. Here what the source
has encoded stays: either it is written anew in the target's space, or the target's queries are
mapped to the source's. Everything is numpy, and runs where torch is not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compatbench.backbone.joint_maps import (
    choose_damping,
    find_affine,
    find_ridge,
    find_turn,
    fit_rotation,
    paired,
)
from compatbench.errors import CompatbenchError

# What each way of porting needs: features of words, or of the same images, on both models.
WAYS = {
    "copied": frozenset(),
    "words": frozenset({"words"}),
    "images": frozenset({"images"}),
    "low-rank": frozenset({"images"}),
    "ridge": frozenset({"words", "images"}),
}
LEAST_PAIRS = 8
PAIRS, SEEDS = (64, 256, 1024), (1, 2, 3)  # that maps are fitted on, and draws of them
TIMED_VECTORS, TIMES = 4096, 32  # of timing a map
Vectors = NDArray[Any]
Pair = tuple[Vectors, Vectors]  # normalised features of the same things, ``[n, e_s]``, ``[n, e_t]``


@dataclass(frozen=True)
class FeatureMap:
    """f ↦ ‖f‖ g / ‖g‖ with g = f M / ‖f‖ + b: a vector is turned and keeps its length.

    So an index of unit vectors is one still, and cosine, inner product and distance rank as before.
    """

    matrix: Vectors  # M, ``[e_s, e_t]``
    bias: Vectors | None = None  # b, ``[e_t]``

    def __call__(self, features: Vectors, lengths: Vectors | None = None) -> Vectors:
        """Features ``[n, e_s]`` in the target's space, ``[n, e_t]``; ``lengths`` are theirs."""
        if lengths is None:
            lengths = np.linalg.norm(features, axis=-1, keepdims=True)
        mapped = features @ self.matrix.astype(features.dtype, copy=False)
        if self.bias is not None:
            mapped += lengths * self.bias.astype(features.dtype, copy=False)
        sizes = np.sqrt(np.einsum("ij,ij->i", mapped, mapped))[:, None]
        mapped *= lengths / np.maximum(sizes, np.finfo(sizes.dtype).tiny)
        return mapped

    def in_single(self) -> FeatureMap:
        """The same in single precision, which most indexes are in."""
        bias = None if self.bias is None else self.bias.astype(np.float32)
        return FeatureMap(self.matrix.astype(np.float32), bias)


def choose_numbers(pairs: Sequence[int], seeds: Sequence[int], most: int) -> list[int]:
    """The numbers of pairs that maps are fitted on; of the usual ones as many as there are."""
    if tuple(pairs) == PAIRS and most < max(PAIRS):
        pairs = [*(number for number in PAIRS if number < most), most * (most >= LEAST_PAIRS)]
    counts = sorted({*pairs} - {0})
    if not pairs or min(counts, default=LEAST_PAIRS) < LEAST_PAIRS or not seeds:
        raise CompatbenchError(f"--pairs: give 0, or numbers of at least {LEAST_PAIRS}, and a seed")
    if most < max(counts, default=0):
        fewer = f"{most:,} at most" if most >= LEAST_PAIRS else 0
        raise CompatbenchError(f"--pairs {max(counts)}: there are {most:,}; give {fewer}")
    return counts


def time_map(width: int, new_width: int) -> float:
    """CPU seconds to map a million vectors, in single precision."""
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((TIMED_VECTORS, width), np.float32)
    turn = FeatureMap(generator.standard_normal((width, new_width), np.float32))
    start = time.process_time()
    for _ in range(TIMES):
        turn(vectors)
    return round(1e6 * (time.process_time() - start) / TIMES / TIMED_VECTORS, 2)


def fit_map(way: str, words: Pair | None = None, images: Pair | None = None) -> FeatureMap:
    """The map of a way of ``WAYS``.

    ``words`` is the semi-orthogonal matrix of the transfer of this name. With F the features of
    images, ``images`` is the orthogonal matrix nearest to them (svd(F_sᵀ F_t), not centred),
    ``low-rank`` adds an affine map of low rank to it, and ``ridge`` is the least squares that are
    drawn to the matrix of the words, or without words to that of the images. The first two are the
    first forms of Drift-Adapter (arXiv:2509.23471), with a rank of this project's; rank and damping
    are those of the transfers ``images`` and ``ridge``.
    """
    by_words = fit_rotation(*words).rotation if words and "words" in WAYS[way] else None
    if "images" not in WAYS[way]:
        assert by_words is not None, "a copied index has no map"
        return FeatureMap(by_words)
    assert images is not None
    source, target = paired(*images)
    if way == "images":
        return FeatureMap(find_turn(source, target))
    if way == "low-rank":
        return FeatureMap(*find_affine(target, source, find_turn(target, source)))
    # The damping is chosen on a quarter of the images, of which its matrix knows nothing.
    rest = slice(len(source) // 4, None)
    tried = find_turn(source[rest], target[rest]) if by_words is None else by_words
    best = choose_damping(target, source, tried)
    prior = find_turn(source, target) if by_words is None else by_words
    return FeatureMap(find_ridge(target, source, prior, best))


def find_drift(source: Vectors, target: Vectors) -> FeatureMap:
    """f_t ≈ f_s + d, with d the mean difference of pairs, of one width (arXiv:2506.00037)."""
    source, target = paired(source, target)
    return FeatureMap(np.eye(source.shape[1]), (target - source).mean(0))


def judge_map(way: str, words: Pair | None = None, images: Pair | None = None) -> dict[str, float]:
    """How near a way's map comes to the target on a quarter of what it is fitted on, left out.

    ``cosine`` is the mean of that of a mapped vector with the target's own; ``residual`` the
    share of the target's variance that is left, Σ ‖g(f_s) - f_t‖² / Σ ‖f_t - mean‖², of unit
    vectors. Of ``words`` both are of words, and else of images.
    """
    judged = images if "images" in WAYS[way] else words
    assert judged is not None
    source, target = paired(*judged)
    held = max(1, len(source) // 4)
    rest = source[held:], target[held:]
    to_target = fit_map(way, *((words, rest) if "images" in WAYS[way] else (rest, images)))
    mapped, _ = paired(to_target(source[:held]), target[:held])
    target = target[:held]
    left = ((mapped - target) ** 2).sum() / ((target - target.mean(0)) ** 2).sum()
    return {"cosine": float((mapped * target).sum(-1).mean()), "residual": float(left)}
