"""What a module will gain on a new model, before anything is labelled there; and what to do."""

from __future__ import annotations

import warnings
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
from compatbench.data.sources.layouts import list_images
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
from compatbench.errors import CompatbenchError, CompatbenchWarning, NotTransferable
from compatbench.method import Method, MethodCard, Module
from compatbench.method.registry import builtin_methods
from compatbench.studies.embeddings import mean_tokens
from compatbench.studies.similarity import mean_cosine
from compatbench.studies.survival import (
    FourAnswers,
    Gain,
    describe_answers,
    describe_kinds,
    describe_module,
    describe_moves,
    read_estimators,
)
from compatbench.transfer import COPIED, TransferData, WordPair
from compatbench.transfer.registry import find_transfer
from compatbench.transfer.words import WordFeatures, find_rotation, find_words

WORDS = "words"
FEW = 100  # images; with less there is a warning
Models = tuple[Backbone, Backbone]  # source and target
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
    module, fitted = read_fitted(given)
    method = build_method_of(fitted, methods, path)
    if backbone == fitted.source or method.card.depth == "none":
        raise CompatbenchError(
            f"{path} needs no prediction on '{backbone}': it is the same there as on its source"
        )
    ways = [COPIED, WORDS] if find_transfer(WORDS).serves(method.card) else [COPIED]
    models = load_both(fitted, backbone, device)
    kinds = [describe_kind(method.card, way, models, labels_of(fitted)) for way in ways]
    if images is None:
        moves = measure_moves(*models, given if isinstance(given, Path) else None)
        blind, found = read_estimators()["models"], []
        for way, kind in zip(ways, kinds, strict=True):
            why = find_obstacle(method, module, way, models, fitted)
            gain = None if why else blind.predict(describe_moves(kind, moves))
            found.append(Outlook(way, gain, why))
        return Prediction(fitted, backbone, 0, tuple(found))
    task = open_images(fitted, images)
    zero_shot, classes = [answer_zero_shot(one, task) for one in models], len(task.labels)
    evaluate = partial(evaluate_module, methods=methods, device=device)
    found = [
        expect(evaluate(given, backbone, task, way), zero_shot, kind, classes)
        for way, kind in zip(ways, kinds, strict=True)
    ]
    return Prediction(fitted, backbone, len(task.split("test")), tuple(found))


def load_both(fitted: Fitted, backbone: str, device: str) -> Models:
    """A module's source, and the backbone that it shall reach."""
    device = resolve_device(device)
    return load_backbone(fitted.source, device), load_backbone(backbone, device)


def describe_kind(card: MethodCard, way: str, models: Models, labels: Labels) -> dict[str, float]:
    """What ``describe_module`` says of a method's module for these classes."""
    tokens = measure_tokens(*models, labels)
    return describe_module(card.places, way, bool(card.zero_shot_at), tokens)


@torch.no_grad()
def find_obstacle(method: Method, module: Module, way: str, models: Models, fitted: Fitted) -> str:
    """Why a module cannot be attached to the target; empty if it can."""
    words, transfer = WordFeatures(default_cache_folder()), find_transfer(way)
    new, given = models[-1], dict[str, Any]()
    if way == WORDS:
        given["words"] = WordPair(*map(words.of, models))
    try:
        transfer.image_input(method, new)
        data = TransferData(transfer, **given)
        labels = open_task(fitted, ImageSource(Path(), {})).labels_for(method.card.needs)
        transfer.attach(method, module.to(new.device), new, labels, data)
    except NotTransferable as why:
        return why.reason
    return ""


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
    four = FourAnswers(found.source.predictions, old, found.target.predictions, new)
    row = describe_answers(four, classes)
    row |= describe_kinds(row, kind)
    return Outlook(found.transfer, read_estimators()["images"].predict(row))


def answer_zero_shot(backbone: Backbone, task: Task) -> Predictions:
    """What a backbone's own zero-shot answers for a task's test images."""
    features = read_features(backbone, task, FeatureCache(default_cache_folder()))
    texts = backbone.zero_shot(task.labels)
    return predict(backbone.logit_scale * F.normalize(features, dim=-1) @ texts.T)


def require_gate(transfer: str) -> None:
    """Refuses a transfer that the estimator was not fitted on."""
    if transfer not in (COPIED, WORDS):
        raise CompatbenchError(
            f"--gate works with the transfers '{COPIED}' and '{WORDS}', not with '{transfer}'; "
            "choose one of the two, or leave --gate out"
        )


def gate_evaluation(found: Evaluation, device: str = "auto") -> Evaluation:
    """The evaluation, with the target's zero-shot in the module's place where harm is expected.

    On its own source, and where it cannot be attached, a module is left as it is.
    """
    fitted = found.fitted
    if found.target is None:
        return found
    if found.backbone == fitted.source:
        return replace(found, gate=f"is not used: '{found.backbone}' is the module's own source")
    task = load_task(found.test_set)
    if fitted.classes is not None:
        task = restrict_task(task, fitted.classes)
    models = load_both(fitted, found.backbone, device)
    card = builtin_methods().get(fitted.method).card
    kind = describe_kind(card, found.transfer, models, task.labels)
    zero_shot = [answer_zero_shot(one, task) for one in models]
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
    base = folder.resolve()
    # The cache knows images by name and size, so the folder is a part of the name.
    inner = base.relative_to(base.anchor)
    samples = [Sample((inner / name).as_posix(), -1) for name in list_images(folder)]
    if len(samples) < FEW:
        warnings.warn(
            f"{folder} holds {len(samples)} images; intervals are for some 250, and with less "
            f"than {FEW} they are too narrow",
            CompatbenchWarning,
            stacklevel=2,
        )
    return open_task(fitted, ImageSource(Path(base.anchor), {"test": samples}, base))


def open_task(fitted: Fitted, source: ImageSource) -> Task:
    """A module's task, of the classes that it knows, with other images."""
    counts = {split: len(samples) for split, samples in source.samples.items()}
    card = task_cards.read(fitted.task)
    changes = {"counts": counts, "least_per_class": {}}
    return Task(card.model_copy(update=changes), labels_of(fitted), source)


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
