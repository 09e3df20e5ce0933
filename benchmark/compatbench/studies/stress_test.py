"""Stress tests of a joint space: turned by growing angles, and made narrower.

Neither changes what the target knows. Turned, its zero-shot classifier gives the same answers;
made narrower along its principal directions, it keeps most of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import Task, load_task
from compatbench.engine.measure import measure, read_features
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.results.measures import Mean, harmonic_mean, mean_over_seeds
from compatbench.studies.stress_report import RANDOM, THROUGH_WORDS, StressReport
from compatbench.studies.study_report import mean_columns
from compatbench.studies.study_setup import FittedModule, Names, StudySetup
from compatbench.transfer import Transfer
from compatbench.transfer.copied import Copied
from compatbench.transfer.rotated_backbone import RotatedBackbone
from compatbench.transfer.words import WordFeatures, Words, load_words

FEWER = (16, 4, 1)  # every so many words of the list
MOST_TOKENS = 2  # of a word that a tokenizer knows well
ANGLES: tuple[float | None, ...] = (0, 45, 90, 135, 180, None)


def study_stress(
    setup: StudySetup,
    methods: Names,
    tasks: Names | None = None,
    angles: Sequence[float | None] = ANGLES,
    turns: int = 3,
    sizes: Sequence[int] | None = None,
    words: bool = False,
    shots: int | None = None,
    seeds: Sequence[int] | None = None,
) -> StressReport:
    """Fits what is not in ``runs/`` yet, and measures it on changed targets.

    Args:
        methods, tasks: names and globs.
        angles: largest angles of the turns, in degrees; None is any rotation.
        turns: random turns of each angle.
        sizes: narrower joint spaces, in place of turns.
        words: find the rotation from parts of the word list, in place of turns.
        shots, seeds: by default the suite's largest number of shots, and its seeds.

    Raises:
        CompatbenchError: an unknown name, a size that is not smaller, or a fit that failed.
    """
    fitted = setup.fit_modules(methods, tasks, shots, seeds)
    test = StressTest(*setup.backbones, fitted, setup.cache, setup.words)
    if words:
        return test.by_words()
    if sizes is None:
        return test.turned(angles, turns)
    size = test.target.embed_dim
    if wide := [one for one in sizes if one >= size]:
        raise CompatbenchError(
            f"--sizes {wide[0]}: the joint space of {setup.target} has {size} directions; give "
            "fewer"
        )
    return test.narrowed(sizes)


def random_rotation(size: int, angle: float | None, seed: int) -> Tensor:
    """An orthogonal matrix exp(θ A) ``[e, e]``, float64.

    A is a random antisymmetric matrix whose largest angle is 1, so that θ is the largest angle
    of the turn, in degrees; None gives a matrix drawn uniformly from all orthogonal ones.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(size, size, generator=generator, dtype=torch.float64)
    if angle is None:
        q, r = torch.linalg.qr(drawn)
        return q * r.diagonal().sign()
    antisymmetric = drawn - drawn.T
    largest = torch.linalg.matrix_norm(antisymmetric, ord=2)
    return torch.matrix_exp(math.radians(angle) * antisymmetric / largest)


def narrow(backbone: Backbone, words: Tensor, size: int) -> RotatedBackbone:
    """The backbone with a joint space of its words' leading principal directions alone.

    Args:
        words: its word features, ``[V, e]``.
    """
    centred = (words - words.mean(0)).double()
    leading = torch.linalg.svd(centred, full_matrices=False).Vh[:size]
    return RotatedBackbone(backbone, leading)


@torch.no_grad()
def measure_module(
    fitted: FittedModule, transfer: Transfer, backbone: Backbone, task: Task, cache: FeatureCache
) -> float:
    """Accuracy, in percent, of a module that a transfer attaches to a backbone."""
    classifier = transfer.attach(fitted.method, fitted.module, None, backbone, task.labels)
    found = measure(classifier, backbone, task, cache, fitted.method.image_input(backbone))
    return _percent(found.right)


class StressTest:
    """Measures fitted modules on changed targets, sharing what they have in common."""

    def __init__(
        self,
        source: Backbone,
        target: Backbone,
        fitted: Sequence[FittedModule],
        cache: FeatureCache,
        words: WordFeatures,
    ) -> None:
        self.source, self.target, self.fitted = source, target, fitted
        self._cache, self._words = cache, words
        self._tasks = {one.cell.task: load_task(one.cell.task) for one in fitted}
        self._on_source = [
            measure_module(one, Copied(), source, self._tasks[one.cell.task], cache)
            for one in fitted
        ]

    def turned(self, angles: Sequence[float | None], turns: int) -> StressReport:
        """Every method, copied and by ``words``, on the target rotated by each angle."""
        plain = self._zero_shot(self.target)[0]
        points = []
        for angle in angles:
            matrices = [
                random_rotation(self.target.embed_dim, angle, seed) for seed in range(turns)
            ]
            changed = [RotatedBackbone(self.target, matrix) for matrix in matrices]
            answers = [self._zero_shot(one) for one in changed]
            flipped = max(int((plain != found).sum()) for found, _ in answers)
            name = RANDOM if angle is None else f"{angle:g}"
            points += self._points(name, changed, answers[0][1], flipped)
        return self._report("turned", points)

    def narrowed(self, sizes: Sequence[int]) -> StressReport:
        """Every method, copied and by ``words``, on the target of each size."""
        points = []
        for size in sizes:
            changed = narrow(self.target, self._words.of(self.target), size)
            points += self._points(str(size), [changed], self._zero_shot(changed)[1])
        return self._report("sizes", points)

    def by_words(self) -> StressReport:
        """Every method, copied and by parts of the word list, on the target as it is.

        The parts are fewer words, and those that the source knows best.
        """
        words = load_words()
        short = [i for i, word in enumerate(words) if len(self.source.tokens(word)) <= MOST_TOKENS]
        parts: dict[str, slice | list[int]] = {
            f"{len(words[::n]):,}": slice(None, None, n) for n in FEWER
        }
        parts[f"{len(short):,} of few tokens"] = short
        unchanged = RotatedBackbone(self.target, torch.eye(self.target.embed_dim))
        zero_shot = self._zero_shot(unchanged)[1]
        points = []
        for name, rows in parts.items():
            points += self._points(name, [unchanged], zero_shot, rows=rows)
        return self._report("words", points)

    def _report(self, kind: str, points: list[dict[str, Any]]) -> StressReport:
        return StressReport(self.source.name, self.target.name, kind, pd.DataFrame(points))

    def _points(
        self,
        change: str,
        changed: Sequence[RotatedBackbone],
        zero_shot: float,
        flipped: int | None = None,
        rows: slice | list[int] = slice(None),
    ) -> list[dict[str, Any]]:
        """The rows of one change.

        Args:
            rows: of the word list, which the rotation is found from.
        """
        points = []
        for name in dict.fromkeys(one.cell.name for one in self.fitted):
            own = [i for i, one in enumerate(self.fitted) if one.cell.name == name]
            source = [self._on_source[i] for i in own]
            served = Words().serves(self.fitted[own[0]].method.card)
            for way in ("", THROUGH_WORDS) if served else ("",):
                found: list[list[float]] = []
                reason = ""
                try:
                    for backbone in changed:
                        words = rows if way else None
                        found.append([self._on_target(i, backbone, words) for i in own])
                except NotTransferable as why:
                    found, reason = [], why.reason
                both = [list(map(harmonic_mean, source, target)) for target in found]
                means = {"source": [source], "target": found, "h": both}
                point: dict[str, Any] = {"method": name + way, "change": change}
                for name_of, values in means.items():
                    point |= mean_columns(name_of, self._mean(own, values))
                point |= {"zero_shot": zero_shot, "flipped": flipped, "reason": reason}
                points.append(point)
        return points

    def _mean(self, own: Sequence[int], values: Sequence[Sequence[float]]) -> Mean | None:
        """Over tasks, and then over turns and seeds, of ``[turns, modules]``."""
        seeds = [self.fitted[i].cell.seed for i in own]
        return mean_over_seeds(
            [
                [value for value, of in zip(turn, seeds, strict=True) if of == seed]
                for turn in values
                for seed in dict.fromkeys(seeds)
            ]
        )

    def _on_target(
        self, number: int, backbone: RotatedBackbone, words: slice | list[int] | None
    ) -> float:
        one, transfer = self.fitted[number], Copied()
        if words is not None:
            turned = F.normalize(backbone.rotate(self._words.of(self.target)), dim=-1)[words]
            source = self._words.of(self.source)[words]
            transfer = Words(source_words=source, words_of=lambda _: turned)
        return measure_module(one, transfer, backbone, self._tasks[one.cell.task], self._cache)

    @torch.no_grad()
    def _zero_shot(self, backbone: Backbone) -> tuple[Tensor, float]:
        """The answers for all test images, and the accuracy, a mean over the tasks."""
        answers, accuracies = [], []
        for task in self._tasks.values():
            features = read_features(backbone, task, self._cache)
            found = (features @ backbone.zero_shot(task.labels).T).argmax(-1).cpu()
            answers.append(found)
            accuracies.append(_percent(found == _targets(task)))
        return torch.cat(answers), statistics.fmean(accuracies)


def _targets(task: Task) -> Tensor:
    return torch.tensor([sample.label for sample in task.split("test")])


def _percent(right: Tensor) -> float:
    return 100 * int(right.sum()) / len(right)
