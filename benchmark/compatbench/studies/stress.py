"""Stress tests of a joint space: turned by growing angles, and made narrower.

Neither changes what the target knows. Turned, its zero-shot classifier gives the same answers;
made narrower along its principal directions, it keeps most of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import FEATURES, Backbone
from compatbench.data.feature_cache import FeatureCache, StoredRows
from compatbench.data.task import Task, load_task
from compatbench.engine.aligned_cells import SUFFIX
from compatbench.engine.cell import Cell
from compatbench.errors import NotTransferable
from compatbench.method import Classifier, Method, Module
from compatbench.results.measures import Mean, harmonic_mean
from compatbench.transfer.attaching import AlignedMethod, acts_at_output
from compatbench.transfer.turned import TurnedBackbone
from compatbench.transfer.words import WordFeatures, load_words

RANDOM = "random"
FEWER = (16, 4, 1)  # every so many words of the list
MOST_TOKENS = 2  # of a word that a tokenizer knows well


@dataclass(frozen=True)
class Fitted:
    """A module of a cell with its method."""

    cell: Cell
    method: Method
    module: Module

    @property
    def name(self) -> str:
        return self.cell.name


@dataclass(frozen=True)
class StressPoint:
    """A method on a target that was turned or narrowed; in percent, mean over the tasks.

    Attributes:
        method: its name; with ``+aligned`` if its modules were attached through words.
        change: the largest angle of the turn in degrees, ``random``, the narrower size, or
            the words of which the turn was found.
        target, h: mean and standard deviation over turns and seeds; None if the method is not
            transferable.
        zero_shot: of the changed target.
        flipped: zero-shot answers that a turn changed, the most of all turns; None if the target
            was narrowed.
        reason: why a module cannot be attached.
    """

    method: str
    change: str
    source: Mean
    target: Mean | None
    h: Mean | None
    zero_shot: float
    flipped: int | None = None
    reason: str = ""


def turn_by(size: int, angle: float | None, seed: int) -> Tensor:
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


def narrow(backbone: Backbone, words: Tensor, size: int) -> TurnedBackbone:
    """The backbone with a joint space of its words' leading principal directions alone.

    Args:
        words: its word features, ``[V, e]``.
    """
    centred = (words - words.mean(0)).double()
    leading = torch.linalg.svd(centred, full_matrices=False).Vh[:size]
    return TurnedBackbone(backbone, leading)


class Bench:
    """Measures fitted modules on changed targets, sharing what they have in common."""

    def __init__(
        self,
        source: Backbone,
        target: Backbone,
        fitted: Sequence[Fitted],
        cache: FeatureCache,
        words: WordFeatures,
    ) -> None:
        self.source = source
        self.target = target
        self.fitted = fitted
        self._cache = cache
        self._words = words
        self._rows: slice | list[int] = slice(None)  # of the word list
        self._tasks = {one.cell.task: load_task(one.cell.task) for one in fitted}
        self._on_source = {
            id(one): self._accuracy(
                one, one.method.attach(one.module, source, self._tasks[one.cell.task].labels)
            )
            for one in fitted
        }

    def turned(self, angles: Sequence[float | None], turns: int) -> list[StressPoint]:
        """Every method, copied and aligned, on the target turned by each angle, ``turns`` times."""
        plain = self._zero_shot(None)
        points = []
        for angle in angles:
            matrices = [turn_by(self.target.embed_dim, angle, seed) for seed in range(turns)]
            changed = [TurnedBackbone(self.target, matrix) for matrix in matrices]
            answers = [self._zero_shot(one) for one in changed]
            flipped = max(int((plain[0] != found).sum()) for found, _ in answers)
            name = RANDOM if angle is None else f"{angle:g}"
            points += self._points(name, changed, answers[0][1], flipped)
        return points

    def narrowed(self, sizes: Sequence[int]) -> list[StressPoint]:
        """Every method on the feature, copied and aligned, on the target of each size."""
        points = []
        for size in sizes:
            changed = narrow(self.target, self._words.of(self.target), size)
            points += self._points(str(size), [changed], self._zero_shot(changed)[1], None)
        return points

    def listed(self) -> list[StressPoint]:
        """Every method, copied and aligned by parts of the word list, on the target as it is."""
        unchanged = TurnedBackbone(self.target, torch.eye(self.target.embed_dim))
        zero_shot = self._zero_shot(unchanged)[1]
        points = []
        for name, rows in self._parts().items():
            self._rows = rows
            points += self._points(name, [unchanged], zero_shot, None)
        self._rows = slice(None)
        return points

    def _parts(self) -> dict[str, slice | list[int]]:
        """Parts of the word list by name: fewer words, and those that the source knows best."""
        words = load_words()
        short = [i for i, word in enumerate(words) if len(self.source.tokens(word)) <= MOST_TOKENS]
        parts = {f"{len(words[::n]):,}": slice(None, None, n) for n in FEWER}
        return {**parts, f"{len(short):,} of few tokens": short}

    def _points(
        self,
        change: str,
        changed: Sequence[TurnedBackbone],
        zero_shot: float,
        flipped: int | None,
    ) -> list[StressPoint]:
        points = []
        for name in dict.fromkeys(one.name for one in self.fitted):
            own = [one for one in self.fitted if one.name == name]
            ways = ("", SUFFIX) if acts_at_output(own[0].method.card) else ("",)
            for way in ways:
                figures = zero_shot, flipped
                points.append(self._point(name + way, change, own, changed, bool(way), *figures))
        return points

    def _point(
        self,
        name: str,
        change: str,
        own: Sequence[Fitted],
        changed: Sequence[TurnedBackbone],
        aligned: bool,
        zero_shot: float,
        flipped: int | None,
    ) -> StressPoint:
        source = _means([one.cell.seed for one in own], [self._on_source[id(one)] for one in own])
        targets, harmonics = [], []
        try:
            for backbone in changed:
                found = [self._on_target(one, backbone, aligned) for one in own]
                seeds = [one.cell.seed for one in own]
                pairs = zip(own, found, strict=True)
                targets += _by_seed(seeds, found)
                harmonics += _by_seed(
                    seeds, [harmonic_mean(self._on_source[id(one)], a) for one, a in pairs]
                )
        except NotTransferable as why:
            return StressPoint(name, change, source, None, None, zero_shot, flipped, why.reason)
        return StressPoint(
            name, change, source, _mean(targets), _mean(harmonics), zero_shot, flipped
        )

    def _on_target(self, one: Fitted, backbone: TurnedBackbone, aligned: bool) -> float:
        method = one.method
        if aligned:
            method = AlignedMethod(
                method,
                self._words.of(self.source)[self._rows],
                lambda _: F.normalize(backbone.turn(self._words.of(self.target)), dim=-1)[
                    self._rows
                ],
            )
        labels = self._tasks[one.cell.task].labels
        return self._accuracy(one, method.attach(one.module, backbone, labels), backbone)

    @torch.no_grad()
    def _accuracy(
        self, one: Fitted, classify: Classifier, changed: TurnedBackbone | None = None
    ) -> float:
        task = self._tasks[one.cell.task]
        backbone = self.source if changed is None else self.target
        wanted = one.method.image_input(backbone)
        samples = task.split("test")
        if wanted == FEATURES:
            inputs = self._features(task, backbone, changed)
            logits = classify(inputs)
        else:
            rows: StoredRows = self._cache.tokens(backbone, task, samples, wanted)
            logits = torch.cat([classify(batch) for batch in rows.batches()])
        return _percent(logits.argmax(-1).cpu() == _targets(task))

    def _features(self, task: Task, backbone: Backbone, changed: TurnedBackbone | None) -> Tensor:
        features = self._cache.features(backbone, task, task.split("test"))
        return features if changed is None else changed.turn(features)

    @torch.no_grad()
    def _zero_shot(self, changed: TurnedBackbone | None) -> tuple[Tensor, float]:
        """The answers for all test images, and the accuracy, a mean over the tasks."""
        answers, accuracies = [], []
        for task in self._tasks.values():
            weights = (changed or self.target).zero_shot(task.labels)
            found = (self._features(task, self.target, changed) @ weights.T).argmax(-1).cpu()
            answers.append(found)
            accuracies.append(_percent(found == _targets(task)))
        return torch.cat(answers), statistics.fmean(accuracies)


def _targets(task: Task) -> Tensor:
    return torch.tensor([sample.label for sample in task.split("test")])


def _percent(right: Tensor) -> float:
    return 100 * int(right.sum()) / len(right)


def _by_seed(seeds: Sequence[int], values: Sequence[float]) -> list[float]:
    """The mean over tasks for each seed."""
    return [
        statistics.fmean(v for s, v in zip(seeds, values, strict=True) if s == seed)
        for seed in dict.fromkeys(seeds)
    ]


def _means(seeds: Sequence[int], values: Sequence[float]) -> Mean:
    return _mean(_by_seed(seeds, values))


def _mean(values: Sequence[float]) -> Mean:
    return Mean(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)
