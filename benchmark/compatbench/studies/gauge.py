"""How much of an upgrade is a turn of the joint space, seen by words and by images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import Task
from compatbench.studies.similarity import modality_gap, row_cosines
from compatbench.transfer.rotation import Alignment, fit_rotation
from compatbench.transfer.words import WordFeatures

LEADING = 0.9  # of the variance of the words, by the directions whose angles are taken


@dataclass(frozen=True)
class MapFigures:
    """Source and target held against each other through one map between their spaces.

    Attributes:
        map: ``none`` (as a copied module sees it), ``words`` or ``images``: what the turn was
            found from. The images are for this analysis alone.
        word_residual, image_residual: what the map and one scale leave of the differences of
            words, and of test images, 0 to 1.
        word_cosine, image_cosine: mean cosine of the same word, or image, on both.
        image_distance: distance of the mean image of source and target.
        angle: mean principal angle, in degrees, of the directions that bear most of the words'
            variance on each side.
    """

    map: str
    word_residual: float
    image_residual: float
    word_cosine: float
    image_cosine: float
    image_distance: float
    angle: float


@dataclass(frozen=True)
class GaugeReport:
    """The figures of a pair.

    Attributes:
        sizes: of the joint spaces, source and target.
        rank: directions that the words determine.
        turn: median angle, in degrees, by which the words say that the space has turned; None
            where the sizes differ.
        agreement: of the turns found from words and from images, trace(R_wᵀ R_i) / min(e): 1
            if they are one, about 0 if they have nothing to do with each other.
        source_gap, target_gap: distance of the mean image and the mean word of one model.
    """

    source: str
    target: str
    tasks: tuple[str, ...]
    sizes: tuple[int, int]
    words: int
    images: int
    rank: int
    turn: float | None
    agreement: float
    source_gap: float
    target_gap: float
    maps: tuple[MapFigures, ...]


def measure_gauge(
    source: Backbone,
    target: Backbone,
    tasks: Sequence[Task],
    cache: FeatureCache,
    words: WordFeatures,
) -> GaugeReport:
    """Compares two joint spaces by the word list and by the tasks' test images.

    Raises:
        CompatbenchError: a word too long for a text tower, or images that cannot be read.
    """
    texts = words.of(source).cpu().double(), words.of(target).cpu().double()
    images = _image_features(source, tasks, cache), _image_features(target, tasks, cache)
    by_words, by_images = fit_rotation(*texts), fit_rotation(*images)
    sizes = texts[0].shape[1], texts[1].shape[1]
    turns = {"words": by_words.rotation, "images": by_images.rotation}
    if sizes[0] == sizes[1]:
        turns = {"none": torch.eye(sizes[0]).double(), **turns}
    return GaugeReport(
        source=source.name,
        target=target.name,
        tasks=tuple(task.name for task in tasks),
        sizes=sizes,
        words=len(texts[0]),
        images=len(images[0]),
        rank=by_words.rank,
        turn=median_angle(by_words) if sizes[0] == sizes[1] else None,
        agreement=float((by_words.rotation * by_images.rotation).sum()) / min(sizes),
        source_gap=modality_gap(images[0], texts[0]),
        target_gap=modality_gap(images[1], texts[1]),
        maps=tuple(_figures(name, turn, texts, images) for name, turn in turns.items()),
    )


def median_angle(alignment: Alignment) -> float:
    """The median angle of a rotation's planes, in degrees; that of the identity is 0."""
    angles = torch.linalg.eigvals(alignment.rotation).angle().abs()
    return math.degrees(float(angles.median()))


def principal_angles(x: Tensor, y: Tensor, share: float = LEADING) -> Tensor:
    """Angles, in degrees, between the leading directions of ``[n, e]`` and ``[n, e]``.

    As many directions are taken as bear ``share`` of the variance of ``y``.
    """
    bases = []
    count = 0
    for features in (y, x):
        _, s, v = torch.linalg.svd(features - features.mean(0), full_matrices=False)
        if not count:
            borne = s.square().cumsum(0) / s.square().sum()
            count = int((borne < share).sum()) + 1
        bases.append(v[:count])
    cosines = torch.linalg.svdvals(bases[0] @ bases[1].T).clamp(max=1)
    return cosines.acos().rad2deg()


def residual_of(x: Tensor, y: Tensor) -> float:
    """What one scale leaves of a difference of ``[n, e]`` and ``[n, e]``, both centred, 0 to 1."""
    x, y = x - x.mean(0), y - y.mean(0)
    product = max(0.0, float((x * y).sum()))
    return 1 - product**2 / float(x.square().sum() * y.square().sum())


def _figures(
    name: str, turn: Tensor, texts: tuple[Tensor, Tensor], images: tuple[Tensor, Tensor]
) -> MapFigures:
    # In the source's coordinates, as a module sees the target.
    words = texts[1] @ turn.T
    pictures = images[1] @ turn.T
    return MapFigures(
        map=name,
        word_residual=residual_of(texts[0], words),
        image_residual=residual_of(images[0], pictures),
        word_cosine=float(row_cosines(texts[0], words).mean()),
        image_cosine=float(row_cosines(images[0], pictures).mean()),
        image_distance=float((images[0].mean(0) - pictures.mean(0)).norm()),
        angle=float(principal_angles(texts[0], words).mean()),
    )


def _image_features(backbone: Backbone, tasks: Sequence[Task], cache: FeatureCache) -> Tensor:
    parts = [cache.features(backbone, task, list(task.split("test"))).cpu() for task in tasks]
    return F.normalize(torch.cat(parts).double(), dim=-1)
