"""Maps from a source's features to a target's, for vectors that were stored: an index.

A transfer shows a module the target's features in the source's coordinates. Here it is the other
way round: what the source has encoded stays, and new queries are the target's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

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
Pair = tuple[Tensor, Tensor]  # normalised features of the same things, ``[n, e_s]``, ``[n, e_t]``


@dataclass(frozen=True)
class FeatureMap:
    """f ↦ ‖f‖ g / ‖g‖ with g = f M / ‖f‖ + b: a vector is turned and keeps its length.

    So an index of unit vectors is one still, and cosine, inner product and distance rank as before.
    """

    matrix: Tensor  # M, ``[e_s, e_t]``
    bias: Tensor | None = None  # b, ``[e_t]``

    def __call__(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Features ``[n, e_s]`` in the target's space, ``[n, e_t]``; ``lengths`` are theirs."""
        if lengths is None:
            lengths = features.norm(dim=-1, keepdim=True)
        mapped = features @ self.matrix.to(features)
        if self.bias is not None:
            mapped.addcmul_(lengths, self.bias.to(features))
        sizes = mapped.norm(dim=-1, keepdim=True)
        return mapped.mul_(lengths / sizes.clamp_min(torch.finfo(sizes.dtype).tiny))


def fit_map(way: str, words: Pair | None = None, images: Pair | None = None) -> FeatureMap:
    """The map of a way of ``WAYS``.

    ``words`` is the semi-orthogonal matrix of the transfer of this name. With F the features of
    images, ``images`` is the orthogonal matrix nearest to them (svd(F_sᵀ F_t), not centred),
    ``low-rank`` adds an affine map of low rank to it, and ``ridge`` is the least squares that are
    drawn to the matrix of the words. The first two are the first forms of Drift-Adapter
    (arXiv:2509.23471), which maps queries back in place of stored vectors; rank and damping are
    those of the transfers ``images`` and ``ridge``.

    Raises:
        CompatbenchError: too few images.
    """
    if "images" in WAYS[way] and images is not None and len(images[0]) < LEAST_PAIRS:
        raise CompatbenchError(
            f"{len(images[0])} images are too few for '{way}': give {LEAST_PAIRS} or more, and "
            "better some hundreds; 'words' needs none"
        )
    return _fit(way, words, images)


def _fit(way: str, words: Pair | None, images: Pair | None) -> FeatureMap:
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
    assert by_words is not None
    prior = by_words.to(source)
    best = choose_damping(target, source, prior)
    return FeatureMap(find_ridge(target, source, prior, best))


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
    found = _fit(way, *((words, rest) if "images" in WAYS[way] else (rest, images)))
    mapped, target = F.normalize(found(source[:held]), dim=-1), target[:held]
    left = (mapped - target).square().sum() / (target - target.mean(0)).square().sum()
    return {"cosine": float((mapped * target).sum(-1).mean()), "residual": float(left)}
