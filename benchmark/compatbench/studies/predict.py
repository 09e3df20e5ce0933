"""What a module will gain on a new model, before anything is labelled there; and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from compatbench.backbone import Backbone, load_backbone
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import backbone_cards, task_cards
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.images import ImageSource, Labels, Sample
from compatbench.data.sources.layouts import EXTENSIONS
from compatbench.data.task import Task, load_task, restrict_task, task_labels
from compatbench.engine.execute.compute import resolve_device
from compatbench.engine.measure import Predictions, predict, read_features
from compatbench.engine.single_module import (
    Evaluation,
    Fitted,
    build_method_of,
    evaluate_module,
    read_fitted,
)
from compatbench.errors import CompatbenchError
from compatbench.method import Module
from compatbench.method.registry import builtin_methods
from compatbench.studies.embeddings import mean_tokens
from compatbench.studies.similarity import mean_cosine
from compatbench.studies.survival import (
    Gain,
    Voices,
    describe_answers,
    describe_kinds,
    describe_module,
    describe_moves,
    read_estimators,
)
from compatbench.transfer import COPIED
from compatbench.transfer.registry import find_transfer
from compatbench.transfer.words import WordFeatures, find_rotation, find_words

WORDS = "words"
ADVICE = {COPIED: "copy", WORDS: "port by words", "": "fall back to zero-shot"}


@dataclass(frozen=True)
class Outlook:
    """What a module is expected to gain when it reaches the target in one way."""

    transfer: str
    gain: Gain | None  # over the target's zero-shot; None if it cannot be attached
    reason: str = ""  # why not

    def as_dict(self) -> dict[str, Any]:
        """JSON values; gains in percentage points."""
        found: dict[str, Any] = {"transfer": self.transfer, "reason": self.reason}
        for name in ("value", "low", "high"):
            key = {"value": "gain"}.get(name, name)
            found[key] = None if self.gain is None else 100 * getattr(self.gain, name)
        return found


@dataclass(frozen=True)
class Prediction:
    """What a module will gain on a new model, by the ways that serve it, and the advice."""

    fitted: Fitted
    backbone: str
    images: int  # unlabelled ones that were looked at
    ways: tuple[Outlook, ...]

    def __repr__(self) -> str:
        upgrade = f"{self.fitted.source} → {self.backbone}"
        return f"<Prediction for {self.fitted.method}, {upgrade}: {self.advice}>"

    @property
    def best(self) -> Outlook | None:
        """The way that gains most; None if none is expected to gain."""
        helpful = [one for one in self.ways if one.gain is not None and one.gain.value > 0]
        return max(helpful, key=lambda one: one.gain.value, default=None)  # type: ignore[union-attr]

    @property
    def advice(self) -> str:
        """``copy``, ``port by words`` or ``fall back to zero-shot``."""
        return ADVICE[self.best.transfer if self.best else ""]

    def as_dict(self) -> dict[str, Any]:
        """JSON values; gains in percentage points."""
        return {
            "method": self.fitted.method,
            "task": self.fitted.task,
            "source": self.fitted.source,
            "backbone": self.backbone,
            "images": self.images,
            "advice": self.advice,
            "ways": [one.as_dict() for one in self.ways],
        }


def predict_module(
    given: Module | Path,
    backbone: str,
    images: Path | None = None,
    methods: str | None = None,
    device: str = "auto",
) -> Prediction:
    """Predicts a module's gain on a backbone, as ``compatbench.predict`` says."""
    backbone = backbone_cards.resolve(backbone)
    path = given if isinstance(given, Path) else Path("the module")
    _, fitted = read_fitted(given)
    method = build_method_of(fitted, methods, path)
    if backbone == fitted.source or method.card.depth == "none":
        raise CompatbenchError(
            f"{path} needs no prediction on '{backbone}': it is the same there as on its source"
        )
    ways = [COPIED, WORDS] if find_transfer(WORDS).serves(method.card) else [COPIED]
    models = [load_backbone(name, resolve_device(device)) for name in (fitted.source, backbone)]
    old, new = models
    tokens, about = measure_tokens(old, new, labels_of(fitted)), method.card
    kinds = [describe_module(about.places, way, bool(about.zero_shot_at), tokens) for way in ways]
    if images is None:
        moves = measure_moves(old, new, given if isinstance(given, Path) else None)
        blind = read_estimators()["models"]
        found = [
            Outlook(way, blind.predict(describe_moves(kind, moves)))
            for way, kind in zip(ways, kinds, strict=True)
        ]
        return Prediction(fitted, backbone, 0, tuple(found))
    task = open_images(fitted, images)
    zero_shot, classes = [answer_zero_shot(one, task) for one in models], len(task.labels)
    evaluate = partial(evaluate_module, methods=methods, device=device)
    found = [
        expect(evaluate(given, backbone, task, way), zero_shot, kind, classes)
        for way, kind in zip(ways, kinds, strict=True)
    ]
    return Prediction(fitted, backbone, len(task.split("test")), tuple(found))


def expect(
    found: Evaluation, zero_shot: Sequence[Predictions], kind: Mapping[str, float], classes: int
) -> Outlook:
    """What the answers in an evaluation tell; no label is looked at.

    ``zero_shot`` are the answers of source and target without the module, ``kind`` is what
    ``describe_module`` says of it; the task has so many ``classes``.
    """
    if found.target is None:
        return Outlook(found.transfer, None, found.reason)
    if found.source is None:
        raise CompatbenchError(f"'{found.fitted.source}' is not here; its answers are needed")
    old, new = zero_shot
    voices = Voices(found.source.predictions, old, found.target.predictions, new)
    row = describe_answers(voices, classes)
    row |= describe_kinds(row, kind)
    return Outlook(found.transfer, read_estimators()["images"].predict(row))


def answer_zero_shot(backbone: Backbone, task: Task) -> Predictions:
    """What a backbone's own zero-shot answers for a task's test images."""
    features = read_features(backbone, task, FeatureCache(default_cache_folder()))
    texts = backbone.zero_shot(task.labels)
    return predict(backbone.logit_scale * F.normalize(features, dim=-1) @ texts.T)


def gate_evaluation(found: Evaluation, device: str = "auto") -> Evaluation:
    """The evaluation, with the target's zero-shot in the module's place where harm is expected.

    On its own source, and where it cannot be attached, a module is left as it is.
    """
    fitted = found.fitted
    if found.target is None or found.backbone == fitted.source:
        return found
    task = load_task(found.test_set)
    if fitted.classes is not None:
        task = restrict_task(task, fitted.classes)
    names = fitted.source, found.backbone
    old, new = (load_backbone(name, resolve_device(device)) for name in names)
    card, tokens = builtin_methods().get(fitted.method).card, measure_tokens(old, new, task.labels)
    kind = describe_module(card.places, found.transfer, bool(card.zero_shot_at), tokens)
    zero_shot = [answer_zero_shot(one, task) for one in (old, new)]
    gain = expect(found, zero_shot, kind, len(task.labels)).gain
    assert gain is not None
    if gain.value > 0:
        return replace(found, gate=f"keeps the module: {show_gain(gain)} expected")
    says = f"falls back to zero-shot: {show_gain(gain)} expected"
    return replace(found, gate=says, target=replace(found.target, predictions=zero_shot[1]))


def show_gain(gain: Gain) -> str:
    """In points, with the interval: ``+1.2 (-0.3 to +2.5)``."""
    value, low, high = (
        f"{round(100 * x, 1) + 0.0:+.1f}" for x in (gain.value, gain.low, gain.high)
    )
    return f"{value} ({low} to {high})"


def labels_of(fitted: Fitted) -> Labels:
    """The classes that a module knows."""
    labels = task_labels(fitted.task)
    if fitted.classes is None:
        return labels
    return replace(labels, names=tuple(labels.names[label] for label in fitted.classes))


def open_images(fitted: Fitted, folder: Path) -> Task:
    """The images in a folder, at any depth, as the unlabelled test images of a module's task."""
    if not folder.is_dir():
        raise CompatbenchError(f"--images '{folder}' is no folder")
    files = [one for one in sorted(folder.rglob("*")) if one.suffix.lower() in EXTENSIONS]
    if not files:
        raise CompatbenchError(f"--images '{folder}' holds no image ({', '.join(EXTENSIONS)})")
    samples = [Sample(one.relative_to(folder).as_posix(), -1) for one in files]
    counts = {"counts": {"test": len(files)}, "least_per_class": {}}
    card = task_cards.read(fitted.task).model_copy(update=counts)
    return Task(card, labels_of(fitted), ImageSource(folder, {"test": samples}))


@torch.no_grad()
def measure_tokens(source: Backbone, target: Backbone, labels: Labels) -> float:
    """1 less the mean cosine of class names' token embeddings; 1 where the widths differ."""
    return 1 - (mean_cosine(*(mean_tokens(one, labels) for one in (source, target))) or 0.0)


@torch.no_grad()
def measure_moves(
    source: Backbone, target: Backbone, module: Path | None = None
) -> dict[str, float]:
    """How far the target has moved from the source, as ``describe_moves`` takes it.

    Of joint spaces whose sizes differ, a cosine is not defined and counts as 0. The source's word
    features beside a module's file are used, if they are there.
    """
    cached = WordFeatures(default_cache_folder())
    old = find_words(module, source.name) if module is not None else None
    old = (cached.of(source) if old is None else old).cpu()
    new = cached.of(target).cpu()
    rotation = find_rotation(old, new)
    return {
        "words": 1 - (mean_cosine(old, new) or 0.0),
        "residual": 0.0 if rotation is None else rotation.residual,
        "images": float(source.card.config != target.card.config),
    }
