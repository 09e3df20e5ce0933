"""What a module will gain on a new model, before anything is labelled there; and what to do."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.backbone.joint_maps import find_rotation
from compatbench.backbone.words import WordFeatures, find_words
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import (
    COPIED,
    TaskCard,
    TrainingCard,
    backbone_cards,
    task_cards,
    whole_name,
)
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.images.source import ImageSource, Sample
from compatbench.data.layouts.recognise import list_images
from compatbench.data.task import Task
from compatbench.engine.attach import Carried
from compatbench.engine.single_module import Fitted, build_method_of, find_labels, read_fitted
from compatbench.engine.task_images import TaskImages
from compatbench.errors import CompatbenchError, CompatbenchWarning, NotTransferable
from compatbench.extras.studies.similarity import mean_cosine
from compatbench.method import Method, Module
from compatbench.method.registry import find_transfer
from compatbench.plugins import open_address
from compatbench.results.evaluation import Evaluation, evaluate
from compatbench.tables.table import Table, plain_table
from compatbench.transfers._shared import survival  # pyright: ignore[reportMissingImports]
from compatbench.transfers._shared.survival import WORDS, Gain  # pyright: ignore[reportMissingImports]

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
        gain = [None] * 3 if self.gain is None else [100 * share for share in astuple(self.gain)]
        values = dict(zip(("gain", "low", "high"), gain, strict=True))
        return {"transfer": self.transfer, "reason": self.reason, **values}


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
        helpful = [way for way in self.ways if way.gain is not None and way.gain.value > 0]
        return max(helpful, key=lambda way: way.gain.value, default=None)  # type: ignore[union-attr]

    @property
    def advice(self) -> str:
        """``copy``, ``port by words`` or ``fall back to zero-shot``."""
        return ADVICE[self.best.transfer if self.best else ""]

    def parts(self) -> list[Table | str]:
        """What a terminal shows: the gain of every way, and what to do."""
        fitted, known = self.fitted, "the models alone"
        if self.images:
            known = f"{self.images:,} images without labels"
        upgrade = f"{fitted.source} → {self.backbone}"
        rows = [(outlook.transfer, str(outlook.gain or outlook.reason)) for outlook in self.ways]
        return [
            f"{fitted.method}, {fitted.task}: {upgrade}, from {known}",
            plain_table(["way", "gain over zero-shot, points (90 %)"], rows, left=(0, 1)),
            f"Advice: {self.advice}. Fitted on miniature models; see docs/predict.md.",
        ]

    def as_dict(self) -> dict[str, Any]:
        """JSON values; gains in percentage points."""
        return {
            "method": self.fitted.method,
            "task": self.fitted.task,
            "source": self.fitted.source,
            "backbone": self.backbone,
            "images": self.images,
            "advice": self.advice,
            "ways": [way.as_dict() for way in self.ways],
        }


def predict(
    module: Module | str | Path,
    backbone: str,
    *,
    images: str | Path | None = None,
    methods: str | None = None,
    device: str = "auto",
) -> Prediction:
    """What a module will gain over a new model's zero-shot, before anything is labelled there.

    It was fitted on miniature models.

    Args:
        module, methods: as for ``evaluate``.
        backbone: the new model.
        images: a folder of images of the module's task, at any depth, without labels; with less
            than a hundred there is a warning. Without it, the models and the place of the module
            are all that is known.

    Returns:
        A prediction: ``ways`` has the gain with a 90 % interval, copied and through ``words``
        where that serves the method, and the reason where it cannot be attached; ``advice`` says
        what to do; ``as_dict()`` has it all.

    Raises:
        CompatbenchError: as ``evaluate``; or a folder without images.
    """
    address = open_address(module)
    backbone = backbone_cards.resolve(backbone)
    path = address if isinstance(address, Path) else Path("the module")
    module, fitted = read_fitted(address)
    method = build_method_of(fitted, methods, path)
    if method.card.refuses:
        raise CompatbenchError(
            f"{path} refuses images, and predictions are of accuracy; 'compatbench evaluate' shows "
            "its precision"
        )
    if backbone == fitted.source or method.card.depth == "none":
        why = "that is its own source"
        if backbone != fitted.source:
            why = f"a module of '{fitted.method}' holds nothing that was learned"
        raise CompatbenchError(f"{path} needs no prediction on '{backbone}': {why}")
    ways = [COPIED, WORDS] if find_transfer(WORDS).serves(method.card) else [COPIED]
    device = resolve_device(device)
    models = load_backbone(fitted.source, device), load_backbone(backbone, device)
    task = open_images(path, fitted, None if images is None else Path(images))
    kinds = {way: survival.describe_method(method.card, way, *models, task.labels) for way in ways}
    if images is None:
        moves = measure_moves(*models, address if isinstance(address, Path) else None)
        blind, outlooks = survival.find_estimator("models", fitted.source, backbone), []
        for way, kind in kinds.items():
            why = find_obstacle(method, module, way, models, task)
            gain = None if why else blind.predict(describe_moves(kind, moves))
            outlooks.append(Outlook(way, gain, why))
        return Prediction(fitted, backbone, 0, tuple(outlooks))
    test = partial(evaluate, address, backbone, task, methods=methods, device=device)
    outlooks_seen = (
        expect(test(transfer=way), kind, len(task.labels)) for way, kind in kinds.items()
    )
    return Prediction(fitted, backbone, len(task.split("test")), tuple(outlooks_seen))


@torch.no_grad()
def find_obstacle(method: Method, module: Module, way: str, models: Models, task: Task) -> str:
    """Why a module cannot be attached to the target; empty if it can."""
    folder, transfer = default_cache_folder(), find_transfer(way)
    labels = task.labels_for(method.card.needs)
    images = TaskImages(task, TrainingCard(), 0, FeatureCache(folder))
    carried = Carried(method, module.to(models[-1].device), *models, labels, images)
    try:
        carried.attach(transfer, carried.data(transfer, WordFeatures(folder)))
    except NotTransferable as why:
        return why.reason
    return ""


def expect(measured: Evaluation, kind: Mapping[str, float], classes: int) -> Outlook:
    """What the answers in an evaluation tell; no label is looked at.

    ``kind`` is what ``describe_module`` says of the module; the task has so many ``classes``.
    """
    old, new, source = measured.source, measured.target, measured.fitted.source
    if new is None:
        return Outlook(measured.transfer, None, measured.reason)
    if old is None:
        raise CompatbenchError(f"'{source}' is not here; its answers are needed")
    four = survival.FourAnswers(old.predictions, old.zero_shot, new.predictions, new.zero_shot)
    return Outlook(
        measured.transfer, survival.predict_gain(four, classes, kind, source, measured.backbone)
    )


def open_images(path: Path, fitted: Fitted, folder: Path | None) -> Task:
    """A module's task, of the classes that it knows, with the images in a folder, at any depth,
    as its unlabelled test images; or with none.
    """
    source = ImageSource(Path(), {})
    if folder is not None:
        base = folder.resolve()
        # The cache knows images by name and size, so the folder is a part of the name.
        inner = base.relative_to(base.anchor)
        samples = [Sample((inner / name).as_posix(), -1) for name in list_images(folder)]
        source = ImageSource(Path(base.anchor), {"test": samples}, base)
        if len(samples) < FEW:
            warnings.warn(
                f"{folder} holds {len(samples)} images; intervals are for some 250, and with less "
                f"than {FEW} they are too narrow",
                CompatbenchWarning,
                stacklevel=2,
            )
    counts = {split: len(samples) for split, samples in source.samples.items()}
    changes = {"counts": counts, "least_per_class": {}}
    if whole_name(fitted.task) in task_cards.names():
        card = task_cards.read(fitted.task)
    else:  # the module says by itself what is needed of it
        card = TaskCard.model_construct(name=fitted.task)
    return Task(card.model_copy(update=changes), find_labels(path, fitted, ()), source)


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


def describe_moves(module: Mapping[str, float], geometry: Mapping[str, float]) -> dict[str, float]:
    """Features of a module with how far its places have moved.

    ``geometry``: ``words``: 1 less the mean cosine of word features of source and target;
    ``residual``: what the best rotation leaves of them; ``images``: 1 if the image towers are of
    other parts.
    """
    joint = geometry["residual" if module["words"] else "words"]
    moved = {"image-layers": geometry["images"]}
    moved |= dict.fromkeys(("feature", "classifier", "bound"), joint)
    features = {f"{place} moved": module[place] * change for place, change in moved.items()}
    features |= {
        f"{place} unrelated": module[place] * module["unrelated"] for place in survival.PLACES
    }
    return dict(module) | features | {"bound through words": module["bound"] * module["words"]}
