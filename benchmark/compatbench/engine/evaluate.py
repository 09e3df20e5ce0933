"""A saved module on another backbone, without training: does it survive the new model?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from compatbench.backbone import FEATURES, Backbone, load_backbone
from compatbench.data.cards import task_cards
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.labels import Labels
from compatbench.data.shots import Shots
from compatbench.data.task import Task, load_task
from compatbench.engine.aligned import find_words
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.method import Method, Module
from compatbench.method.module import load_module
from compatbench.method.registry import MethodRegistry
from compatbench.results.measures import harmonic_mean
from compatbench.transfer.attaching import AlignedMethod
from compatbench.transfer.words import WordFeatures


class Fitted(BaseModel):
    """What a module's file says of its fit; more is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    method: str
    config: dict[str, Any]
    task: str
    source: str
    shots: Shots
    seed: int


@dataclass(frozen=True)
class Side:
    """A module on one backbone: which images are classified right, ``[images]``.

    Attributes:
        right: by the module.
        zero_shot: by the backbone's own zero-shot classifier.
    """

    backbone: str
    right: Tensor
    zero_shot: Tensor

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy in percent."""
        return _percent(self.right)

    @property
    def gain(self) -> float:
        """Accuracy over that of zero-shot, in percentage points."""
        return _percent(self.right) - _percent(self.zero_shot)


@dataclass(frozen=True)
class Evaluation:
    """A module on the backbone it was fitted on, and on another.

    Attributes:
        test_set: the task, or a variant of it.
        source: None if the source is not here, and is not needed.
        target: None if the module cannot be attached there.
        reason: why not.
        aligned: whether the module was attached through a turn found from words.
    """

    fitted: Fitted
    backbone: str
    test_set: str
    source: Side | None
    target: Side | None
    reason: str = ""
    aligned: bool = False

    @property
    def negative_flips(self) -> float | None:
        """Share of images, in percent, that are right on the source and wrong on the target."""
        if self.source is None or self.target is None:
            return None
        return _percent(self.source.right & ~self.target.right)

    @property
    def positive_flips(self) -> float | None:
        """Share of images, in percent, that are wrong on the source and right on the target."""
        if self.source is None or self.target is None:
            return None
        return _percent(~self.source.right & self.target.right)

    @property
    def h(self) -> float | None:
        """The harmonic mean of both accuracies."""
        if self.source is None or self.target is None:
            return None
        return harmonic_mean(self.source.accuracy, self.target.accuracy)


def evaluate(
    path: Path,
    backbone: str,
    test_set: str | None,
    registry: MethodRegistry,
    cache: FeatureCache,
    device: str = "cpu",
    aligned: bool = False,
) -> Evaluation:
    """Measures a module on a backbone and on its source, on one test set.

    Args:
        path: the module's safetensors file, as ``run`` leaves it in ``runs/modules/``.
        test_set: the module's task, by default, or a variant of it.
        aligned: attach through a turn found from words. With the source's word features beside
            the module, the source itself need not be here.

    Raises:
        CompatbenchError: the file is damaged or is no module; its method, settings or
            source are not known here; an unknown backbone or task, or one that the module
            was not fitted for.
    """
    module, about = load_module(path)
    try:
        fitted = Fitted.model_validate(about)
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise CompatbenchError(
            f"{path} does not say how it was fitted ('{field}'); give a module that 'run' has left"
        ) from None
    method = _build_method(fitted, registry, path)
    task = _load_test_set(fitted, test_set or fitted.task, path)
    labels = load_task(fitted.task).labels
    words = _carried_words(path, fitted, method) if aligned else None
    target_backbone = load_backbone(backbone, device)
    source_backbone = target_backbone
    if backbone != fitted.source:
        source_backbone = _load_source(fitted.source, device, needed=words is None)
    try:
        source = None
        if source_backbone is not None:
            source = _measure(method, module, source_backbone, labels, task, cache)
    except NotTransferable as why:
        raise CompatbenchError(
            f"{path} does not fit its own source '{fitted.source}' and task '{fitted.task}' as "
            f"they are now: {why.reason}"
        ) from None
    if aligned:
        known = WordFeatures(cache.folder.parent)
        if words is None:
            assert source_backbone is not None
            words = known.of(source_backbone)
        method = AlignedMethod(method, words, known.of)
    try:
        target = _measure(method, module, target_backbone, labels, task, cache)
    except NotTransferable as why:
        return Evaluation(fitted, backbone, task.name, source, None, why.reason, aligned)
    return Evaluation(fitted, backbone, task.name, source, target, aligned=aligned)


def _carried_words(path: Path, fitted: Fitted, method: Method) -> Tensor | None:
    if method.card.depth == "none":
        raise CompatbenchError(f"--aligned: a module of '{fitted.method}' has nothing to align")
    return find_words(path, fitted.source)


def _load_source(name: str, device: str, needed: bool) -> Backbone | None:
    try:
        return load_backbone(name, device)
    except CompatbenchError:
        if needed:
            raise
        return None


def _build_method(fitted: Fitted, registry: MethodRegistry, path: Path) -> Method:
    name = fitted.method
    if name not in registry.classes and name not in registry.broken:
        raise CompatbenchError(
            f"{path} is a module of the method '{name}', which is not here; give its file: "
            f"--methods ./{name}.py"
        )
    cls = registry.get(name)
    try:
        return cls(cls.Config.model_validate(fitted.config))
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise CompatbenchError(
            f"{path} was fitted with a setting '{field}' that the method '{name}' does not take "
            "any more"
        ) from None


def _load_test_set(fitted: Fitted, name: str, path: Path) -> Task:
    task = load_task(name)
    if fitted.task not in (task.name, task.parent):
        cards = [task_cards.read(other) for other in task_cards.names()]
        variants = [card.name for card in cards if card.parent == fitted.task]
        also = f", or on its variants {', '.join(variants)}" if variants else ""
        raise CompatbenchError(
            f"{path} was fitted for the task '{fitted.task}', whose classes are not those of "
            f"'{name}'; evaluate it on that{also}"
        )
    return task


@torch.no_grad()
def _measure(
    method: Method,
    module: Module,
    backbone: Backbone,
    labels: Labels,
    task: Task,
    cache: FeatureCache,
) -> Side:
    """A module, attached to the classes that it was fitted for, on a test set of these."""
    wanted = method.image_input(backbone)
    classify = method.attach(module.to(backbone.device), backbone, labels)
    samples = task.split("test")
    features = cache.features(backbone, task, samples)
    if wanted == FEATURES:
        logits = classify(features)
    else:
        rows = cache.tokens(backbone, task, samples, wanted)
        logits = torch.cat([classify(batch) for batch in rows.batches()])
    logits = task.select_columns(logits)
    targets = torch.tensor([sample.label for sample in samples], device=backbone.device)
    zero_shot = features @ backbone.zero_shot(task.labels).T
    right, zero_shot_right = (z.argmax(-1) == targets for z in (logits, zero_shot))
    return Side(backbone.name, right.cpu(), zero_shot_right.cpu())


def _percent(right: Tensor) -> float:
    return 100 * int(right.sum()) / len(right)
