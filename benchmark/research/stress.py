"""Stress tests of a joint space: rotated by growing angles, and made narrower.

Neither changes what the target knows. After a rotation its zero-shot classifier gives the same
answers; made narrower along its principal directions, it keeps most of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from compatbench.backbone import Backbone, RotatedBackbone
from compatbench.backbone.words import WordFeatures, load_words
from compatbench.data.cards import COPIED
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import load_task
from compatbench.engine.predict import predict_module, read_features
from compatbench.engine.store import RunStore
from compatbench.engine.task_images import label_tensor
from compatbench.errors import NotTransferable
from compatbench.extras.studies import frames
from compatbench.extras.studies.frames import Row, StudyReport
from compatbench.extras.studies.study import Fit, Names, Study, StudyOptions
from compatbench.method.registry import builtin_methods, find_transfer
from compatbench.method.transfer import TransferData, WordPair
from compatbench.results.estimate import average
from compatbench.tables.figures.spec_parts import Shown
from compatbench.tables.numbers import NOTHING, percent
from compatbench.tables.table import Table, code, plain_table, records, sentence

# Largest angles of the rotations, in degrees, and how many of each; None is any rotation.
ANGLES: tuple[float | None, ...] = (0, 45, 90, 135, 180, None)
ROTATIONS = 3
SIZES = (32, 64, 96)  # of narrowed joint spaces
FEWER = (16, 4, 1)  # every so many words of the list
MOST_TOKENS = 2  # of a word that a tokenizer knows well

RANDOM = "random"
# Behind the name of a method whose modules were attached through words.
THROUGH_WORDS = " (words)"
CHANGES = {
    "rotated": "accuracy on the target by the largest angle of its rotation, "
    "mean ± std over rotations",
    "sizes": "accuracy on the target by the size of its narrowed joint space",
    "words": "accuracy on the target by the words from which the rotation was found",
}


@dataclass(frozen=True)
class StressReport(StudyReport):
    """Methods, copied and by ``words``, on a changed target; in percent, mean over tasks.

    Attributes:
        kind: ``rotated``, ``sizes`` (the target narrowed) or ``words`` (the rotation is found from
            parts of the word list).
        points: one row for each ``method`` (with `` (words)`` if its modules were attached
            through words) and ``change`` (largest angle or ``random``, size, or words): mean and
            standard deviation, over rotations and seeds, of ``source``, and of ``target`` if the
            method is transferable, or else the ``reason``; ``zero_shot`` of the changed target;
            ``flipped``, the most zero-shot answers that one of the rotations changed.
    """

    source: str
    target: str
    kind: str
    points: pd.DataFrame

    def tables(self) -> list[Table]:
        """One row for each method, one column for each change."""
        points = records(self.points)
        zero_shot = {one["change"]: percent(one["zero_shot"]) for one in points}
        rows: dict[str, list[Any]] = {"": ["zero-shot", NOTHING, *zero_shot.values()]}
        for one in points:
            name = one["method"]
            row = rows.setdefault(name, [code(name), percent(one["source"])])
            row.append(frames.spread(one, "target"))
        notes = []
        if self.kind == "rotated":
            flipped = max(one["flipped"] for one in points)
            notes.append(f"Zero-shot answers that a rotation changed, by rounding: {flipped}.")
        if reason := next((one["reason"] for one in points if one["reason"]), ""):
            notes.append(f"{NOTHING}: not transferable; {reason}, and so on.")
        unit = "°" if self.kind == "rotated" else ""
        header = ["", "source", *[name if name == RANDOM else name + unit for name in zero_shot]]
        change = f", {CHANGES[self.kind]}:"
        head = sentence(code(self.source), " → ", code(self.target), change)
        return [plain_table(header, rows.values(), caption=head, notes=notes)]

    figure, figures = "rotated", Path(__file__).with_name("alignment.yaml.jinja")

    def shown(self) -> Shown | None:
        """Accuracy on a target by its rotation: copied modules left, ``words`` right."""
        if self.kind != "rotated":
            return None
        points = records(self.points)
        zero_shot = {row["change"]: row["zero_shot"] for row in points}
        rows = [
            {"panel": way, "series": "zero-shot", "x": x, "y": y, "low": y, "high": y}
            for way in ("copied", "words")
            for x, y in zero_shot.items()
        ]
        for row in points:
            name, words = row["method"].removesuffix(THROUGH_WORDS), THROUGH_WORDS in row["method"]
            place = {"panel": "words" if words else "copied", "x": row["change"]}
            rows += [mean | place for mean in frames.mean_points([row], "target", name)]
        heading = f"{self.source} → {self.target}, rotated, by its largest angle in degrees"
        return Shown(rows, {"heading": heading, "series": [*{row["series"]: 0 for row in rows}]})


@dataclass(frozen=True)
class Change:
    """A target that was changed: several times, if the change is drawn.

    Attributes:
        words: rows of the word list that the rotation of ``words`` is found from; None is all.
    """

    name: str
    targets: Sequence[RotatedBackbone]
    words: Sequence[int] | None = None


def analyze_stress(
    source: str,
    target: str,
    kind: str,
    methods: Names,
    *,
    seeds: Sequence[int] | None = None,
    **options: Unpack[StudyOptions],
) -> StressReport:
    """What modules are worth on a target whose joint space was rotated or made narrower.

    Modules are fitted on the source, unless ``runs/`` has them, and attached by ``copied`` and,
    where they act on features, by ``words``. ``kind`` is that of the report.
    """
    study = Study(source, target, **options)
    matrix = study.matrix(builtin_methods(), methods, None, None, seeds)
    # What the target makes of a module is measured here, after it was changed.
    cells = [
        replace(cell, backbones=(source,), places=tuple(w for w in cell.places if w[0] == source))
        for cell in matrix.cells()
    ]
    fits = study.fit(matrix, cells, RunStore(Path(study.out) / "runs"))
    test = StressTest(*study.backbones, fits, study.cache, study.words)
    changes = {
        "rotated": lambda: test.rotated(ANGLES, ROTATIONS),
        "sizes": lambda: test.narrowed(SIZES),
        "words": test.by_words,
    }
    return test.report(kind, changes[kind]())


def random_rotation(size: int, angle: float | None, seed: int) -> Tensor:
    """An orthogonal matrix exp(θ A) ``[e, e]``, float64.

    A is a random antisymmetric matrix whose largest angle is 1, so that θ is the largest angle
    of the rotation, in degrees; None gives a matrix drawn uniformly from all orthogonal ones.
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
    """The backbone with a joint space of the leading principal directions of its word features
    ``[V, e]`` alone.
    """
    centred = (words - words.mean(0)).double()
    leading = torch.linalg.svd(centred, full_matrices=False).Vh[:size]
    return RotatedBackbone(backbone, leading)


@dataclass
class StressTest:
    """Measures fitted modules on changed targets, sharing what they have in common."""

    source: Backbone
    target: Backbone
    fits: Sequence[Fit]
    cache: FeatureCache
    words: WordFeatures

    def __post_init__(self) -> None:
        self._tasks = {fit.cell.task: load_task(fit.cell.task) for fit in self.fits}
        self._on_source = [self._accuracy(fit, None, self.source) for fit in self.fits]

    def rotated(self, angles: Sequence[float | None], rotations: int) -> Iterator[Change]:
        """The target rotated by each angle, in degrees."""
        for angle in angles:
            matrices = [random_rotation(self.target.embed_dim, angle, i) for i in range(rotations)]
            name = RANDOM if angle is None else f"{angle:g}"
            yield Change(name, [RotatedBackbone(self.target, matrix) for matrix in matrices])

    def narrowed(self, sizes: Sequence[int]) -> Iterator[Change]:
        """The target with a joint space of each size, smaller than its own."""
        for size in sizes:
            yield Change(str(size), [narrow(self.target, self.words.of(self.target), size)])

    def by_words(self) -> Iterator[Change]:
        """The target as it is; ``words`` has fewer words, or those that the source knows best."""
        words = load_words()
        short = [i for i, word in enumerate(words) if len(self.source.tokens(word)) <= MOST_TOKENS]
        unchanged = [RotatedBackbone(self.target, torch.eye(self.target.embed_dim))]
        for rows in (range(0, len(words), step) for step in FEWER):
            yield Change(f"{len(rows):,}", unchanged, rows)
        yield Change(f"{len(short):,} of few tokens", unchanged, short)

    def report(self, kind: str, changes: Iterable[Change]) -> StressReport:
        """Every method, copied and by ``words``, on every change of the target."""
        plain, points = self._zero_shot(self.target)[0], []
        cards = {fit.cell.name: fit.method.card for fit in self.fits}
        for change in changes:
            answers = [self._zero_shot(target) for target in change.targets]
            shared: Row = {"zero_shot": answers[0][1], "flipped": None}
            if kind == "rotated":
                shared["flipped"] = max(int((plain != found).sum()) for found, _ in answers)
            for name, card in cards.items():
                for suffix in ("", THROUGH_WORDS) if find_transfer("words").serves(card) else ("",):
                    found = self._measure(name, change, by_words=bool(suffix))
                    point = {"method": name + suffix, "change": change.name}
                    point |= frames.seed_means(found.query("rotation == 0"), "source")
                    point |= frames.seed_means(found, "target", "rotation")
                    reason = next(filter(None, found["reason"]), "")
                    points.append(point | shared | {"reason": reason})
        return StressReport(self.source.name, self.target.name, kind, pd.DataFrame(points))

    def _measure(self, name: str, change: Change, *, by_words: bool) -> pd.DataFrame:
        """Accuracies of one method's modules, in percent; or why they cannot be attached."""
        rows = []
        for rotation, backbone in enumerate(change.targets):
            words: WordPair | None = None
            if by_words:
                part = slice(None) if change.words is None else list(change.words)
                rotated = backbone.rotate(self.words.of(self.target))
                own = self.words.of(self.source)[part]
                words = WordPair(own, F.normalize(rotated, dim=-1)[part])
            for fit, source in zip(self.fits, self._on_source, strict=True):
                if fit.cell.name != name:
                    continue
                target, reason = math.nan, ""
                try:
                    target = self._accuracy(fit, words, backbone)
                except NotTransferable as why:
                    reason = why.reason
                row: Row = {"rotation": rotation, "task": fit.cell.task, "seed": fit.cell.seed}
                rows.append(row | {"source": source, "target": target, "reason": reason})
        return pd.DataFrame(rows)

    @torch.no_grad()
    def _accuracy(self, fit: Fit, words: WordPair | None, backbone: Backbone) -> float:
        """Accuracy, in percent, of a module on a backbone, copied or through words."""
        task = self._tasks[fit.cell.task]
        labels = task.labels_for(fit.method.card.needs)
        transfer = find_transfer(COPIED if words is None else "words")
        data = TransferData(transfer, words=words)
        classifier = transfer.attach(fit.method, fit.module, backbone, labels, data)
        wanted = fit.method.image_input(backbone)
        predictions = predict_module(classifier, backbone, task, self.cache, wanted)
        return _percent(predictions.classes == label_tensor(task.split("test")))

    @torch.no_grad()
    def _zero_shot(self, backbone: Backbone) -> tuple[Tensor, float]:
        """The answers for all test images, and the accuracy, a mean over the tasks."""
        answers, accuracies = [], []
        for task in self._tasks.values():
            features = read_features(backbone, task, self.cache)
            answers.append((features @ backbone.zero_shot(task.labels).T).argmax(-1).cpu())
            accuracies.append(_percent(answers[-1] == label_tensor(task.split("test"))))
        return torch.cat(answers), average(accuracies)


def _percent(right: Tensor) -> float:
    return 100 * int(right.sum()) / len(right)
