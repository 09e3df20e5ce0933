"""How much of an upgrade is a rotation of the joint space, by words and by images.

python benchmark/research/gauge.py mini-clip mini-eva-clip
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import typer
from numpy.typing import NDArray
from scipy.linalg import subspace_angles
from torch import Tensor
from typing_extensions import Unpack

from compatbench.backbone import Backbone
from compatbench.backbone.joint_maps import fit_rotation
from compatbench.backbone.words import WordFeatures
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import Task
from compatbench.extras.studies import frames
from compatbench.extras.studies.frames import StudyReport
from compatbench.extras.studies.similarity import mean_cosine, modality_gap
from compatbench.extras.studies.study import Names, Study, StudyOptions
from compatbench.tables.table import Table, code, plain_table, records, sentence

LEADING = 0.9  # of the variance of the words, by the directions whose angles are taken
MAPS = {"none": "as it is", "words": "rotated by words", "images": "rotated by images"}
# What the map and one scale leave of differences, and more.
FIGURES = {
    "word_residual": "what is left of the words' differences",
    "image_residual": "what is left of the images' differences",
    "word_cosine": "cosine of the same word",
    "image_cosine": "cosine of the same image",
    "image_distance": "distance of the mean images",
    "angle": "mean principal angle of the words, degrees",
}


@dataclass(frozen=True)
class GaugeReport(StudyReport):
    """Two joint spaces, compared.

    Attributes:
        sizes: of the joint spaces, source and target; ``rank``: directions that words give.
        angle: median angle, in degrees, of the rotation found from words; None
            where the sizes differ.
        agreement: of the rotations found from words and from images, trace(R_wᵀ R_i) / min(e): 1
            if they are the same, about 0 if they are unrelated.
        source_gap, target_gap: distance of the mean image and the mean word of one model.
        maps: one row for each ``map`` between the spaces: ``none`` (as a copied module sees the
            target), and the rotations found from ``words`` and from ``images``, the latter for
            this analysis alone; columns as in ``FIGURES``, residuals from 0 to 1.
    """

    source: str
    target: str
    sizes: tuple[int, int]
    words: int
    images: int
    rank: int
    angle: float | None
    agreement: float
    source_gap: float
    target_gap: float
    maps: pd.DataFrame

    def tables(self) -> list[Table]:
        """The figures, one column for each map."""
        maps = records(self.maps)
        rows = [
            [title, *[frames.decimals(one[name], 0 if name == "angle" else 2) for one in maps]]
            for name, title in FIGURES.items()
        ]
        sizes = " and ".join(map(str, dict.fromkeys(self.sizes)))
        turned = (
            f"; by them the space was rotated by {self.angle or 0:.0f}° (median over its planes)"
        )
        rotated = "" if self.angle is None else turned
        notes = [
            f"{self.words:,} words and {self.images:,} test images; {sizes} directions, of which "
            f"the words determine {self.rank}{rotated}.",
            "The rotation found from words and the one found from images agree to "
            f"{self.agreement:.2f} (1: the same; 0: unrelated).",
            f"Modality gap: {self.source_gap:.2f} on the source, {self.target_gap:.2f} on the "
            "target; no rotation changes it.",
        ]
        head = sentence(code(self.source), " → ", code(self.target), ":")
        header = ["", *(MAPS[one["map"]] for one in maps)]
        return [plain_table(header, rows, caption=head, notes=notes)]


def analyze_gauge(
    source: str, target: str, *, tasks: Names | None = None, **options: Unpack[StudyOptions]
) -> GaugeReport:
    """Two models, by their names, compared on the test images of tasks, by default all."""
    study = Study(source, target, **options)
    return measure_gauge(*study.backbones, study.load_tasks(tasks), study.cache, study.words)


def measure_gauge(
    source: Backbone,
    target: Backbone,
    tasks: Sequence[Task],
    cache: FeatureCache,
    words: WordFeatures,
) -> GaugeReport:
    """Compares two joint spaces by the word list and by the tasks' test images."""
    texts = [words.of(backbone).cpu().double() for backbone in (source, target)]
    images = [_image_features(backbone, tasks, cache) for backbone in (source, target)]
    by_words, by_images = (fit_rotation(a, b) for a, b in (texts, images))
    sizes = texts[0].shape[1], texts[1].shape[1]
    rotations = {"words": by_words.rotation, "images": by_images.rotation}
    angle = None
    if sizes[0] == sizes[1]:
        rotations = {"none": torch.eye(sizes[0]).double(), **rotations}
        angles = torch.linalg.eigvals(by_words.rotation).angle().abs()
        angle = math.degrees(float(angles.median()))
    maps = []
    for name, rotation in rotations.items():
        # In the source's coordinates, as a module sees the target.
        rotated, pictures = texts[1] @ rotation.T, images[1] @ rotation.T
        maps.append(
            {
                "map": name,
                "word_residual": scaled_residual(texts[0], rotated),
                "image_residual": scaled_residual(images[0], pictures),
                "word_cosine": mean_cosine(texts[0], rotated),
                "image_cosine": mean_cosine(images[0], pictures),
                "image_distance": float((images[0].mean(0) - pictures.mean(0)).norm()),
                "angle": float(principal_angles(texts[0], rotated, LEADING).mean()),
            }
        )
    return GaugeReport(
        source=source.name,
        target=target.name,
        sizes=sizes,
        words=len(texts[0]),
        images=len(images[0]),
        rank=by_words.rank,
        angle=angle,
        agreement=float((by_words.rotation * by_images.rotation).sum()) / min(sizes),
        source_gap=modality_gap(images[0], texts[0]),
        target_gap=modality_gap(images[1], texts[1]),
        maps=pd.DataFrame(maps),
    )


def _image_features(backbone: Backbone, tasks: Sequence[Task], cache: FeatureCache) -> Tensor:
    parts = [cache.features(backbone, task, list(task.split("test"))).cpu() for task in tasks]
    return F.normalize(torch.cat(parts).double(), dim=-1)


def scaled_residual(x: Tensor, y: Tensor) -> float:
    """What the best scale leaves of a difference, of ``[n, e]`` and ``[n, e]``, 0 to 1."""
    x, y = x - x.mean(0), y - y.mean(0)
    product = max(0.0, float((x * y).sum()))
    return 1 - product**2 / float(x.square().sum() * y.square().sum())


def principal_angles(x: Tensor, y: Tensor, share: float) -> NDArray[np.float64]:
    """Angles, in degrees, between the leading directions of ``[n, e]`` and ``[n, e]``.

    As many directions are taken as hold ``share`` of the variance of ``y``.
    """
    of_x, of_y = (np.linalg.svd((z - z.mean(0)).numpy(), full_matrices=False) for z in (x, y))
    held = np.cumsum(of_y.S**2) / np.sum(of_y.S**2)
    count = int((held < share).sum()) + 1
    return np.rad2deg(subspace_angles(of_x.Vh[:count].T, of_y.Vh[:count].T))


def main(source: str, target: str, tasks: str | None = None, suite: str = "mini") -> None:
    """Show how much of an upgrade is a rotation of the joint space, by words and by images."""
    print(analyze_gauge(source, target, tasks=tasks, suite=suite).markdown())


if __name__ == "__main__":
    typer.run(main)
