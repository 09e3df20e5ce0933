"""One module on another backbone: does it survive there?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from compatbench.backbone import Backbone, load_backbone
from compatbench.backbone.device import resolve_device
from compatbench.backbone.words import WordFeatures, find_words
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import COPIED, TrainingCard, backbone_cards
from compatbench.data.cards.shots import show_shots
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import Task, load_task, restrict_task
from compatbench.engine.attach import Carried
from compatbench.engine.keys import find_teacher
from compatbench.engine.predict import predict_zero_shot
from compatbench.engine.single_module import Fitted, build_method_of, read_fitted
from compatbench.engine.task_images import TaskImages, hide_labels, label_tensor
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.harmonic_mean import harmonic_mean
from compatbench.method import Module
from compatbench.method.registry import builtin_transfers, find_transfer
from compatbench.method.transfer import Transfer
from compatbench.results.measures import Answers, score


class Judged(Answers):
    """What a module answers on one backbone, with what is usually asked of it; in percent."""

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy."""
        return 100 * float(self.right(self.predictions).mean())

    @property
    def zero_shot_accuracy(self) -> float:
        """Top-1 accuracy of the backbone's own zero-shot classifier."""
        return 100 * float(self.right(self.zero_shot).mean())

    @property
    def gain(self) -> float:
        """Accuracy over that of zero-shot, in percentage points."""
        return self.accuracy - self.zero_shot_accuracy


@dataclass(frozen=True, repr=False)
class Evaluation:
    """A module on the backbone it was fitted on, and on another."""

    fitted: Fitted
    backbone: str
    test_set: str  # the task, or a variant of it
    source: Judged | None  # None if the source is not here, and is not needed
    target: Judged | None  # None if the module cannot be attached there
    reason: str = ""  # why not
    transfer: str = COPIED  # how the module reached the target
    note: str = ""  # what the transfer says of its classifier, as the gate does of its decision
    precision: str = "fp32"  # what the frozen towers computed in

    def __repr__(self) -> str:
        upgrade = f"{self.fitted.source} → {self.backbone}, {self.transfer}"
        what = f"{self.fitted.method} on {self.test_set}, {upgrade}"
        return f"<Evaluation of {what}: {self.verdict}>"

    @property
    def h(self) -> float | None:
        """The harmonic mean of both accuracies, in percent."""
        if self.source is None or self.target is None:
            return None
        return harmonic_mean(self.source.accuracy, self.target.accuracy)

    @property
    def negative_flips(self) -> float | None:
        """Share of images, in percent, that are right on the source and wrong on the target."""
        return self._share("negative_flips")

    @property
    def positive_flips(self) -> float | None:
        """Share of images, in percent, that are wrong on the source and right on the target."""
        return self._share("positive_flips")

    def _share(self, flips: str) -> float | None:
        if self.source is None or self.target is None:
            return None
        answers = replace(self.target, source=self.source.predictions)
        return 100 * float(score(answers)[flips] or 0) / self.images

    @property
    def images(self) -> int:
        """Images of the test set."""
        judged = self.source or self.target
        return 0 if judged is None else len(judged.targets)

    @property
    def verdict(self) -> str:
        """``helps``, ``no help``, ``harms`` or ``not transferable``, by the gain on the target."""
        if self.target is None:
            return "not transferable"
        gain = self.target.gain
        return "helps" if gain > 0 else "no help" if gain == 0 else "harms"

    def as_dict(self) -> dict[str, Any]:
        """JSON values; accuracies, gains and flips in percent of the images."""
        fitted = self.fitted
        return {
            "method": fitted.method,
            "task": fitted.task,
            "shots": fitted.shots and show_shots(fitted.shots),
            "seed": fitted.seed,
            "imported": fitted.imported,
            "ported": fitted.ported,
            "test_set": self.test_set,
            "images": self.images,
            "transfer": self.transfer,
            "precision": self.precision,
            "note": self.note,
            "status": "ok" if self.target else "not transferable",
            "verdict": self.verdict,
            "reason": self.reason,
            "source": _describe(fitted.source, self.source),
            "target": _describe(self.backbone, self.target),
            "h": self.h,
            "negative_flips": self.negative_flips,
            "positive_flips": self.positive_flips,
        }


def _describe(backbone: str, judged: Judged | None) -> dict[str, Any]:
    if judged is None:
        return {"backbone": backbone}
    counts = score(judged)
    return {
        "backbone": backbone,
        "correct": counts["correct"],
        "zero_shot_correct": counts["zero_shot_correct"],
        "accuracy": judged.accuracy,
        "gain": judged.gain,
    }


def evaluate_module(
    given: Module | Path,
    backbone: str,
    test_set: str | Task | None = None,
    transfer: str = COPIED,
    methods: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
) -> Evaluation:
    """Scores a module on a backbone and on its source, as ``compatbench.evaluate`` says.

    A ``test_set`` that is given as a task has the module's own classes, and images without labels.
    For the transfer ``words``, with the source's word features beside the module, the source
    itself need not be here.
    """
    device, cache = resolve_device(device), FeatureCache(default_cache_folder())
    backbone = backbone_cards.resolve(backbone)
    path = given if isinstance(given, Path) else Path("the module")
    module, fitted = read_fitted(given)
    method = build_method_of(fitted, methods, path)
    opened = isinstance(test_set, Task)
    task = test_set if isinstance(test_set, Task) else load_task(test_set or fitted.task)
    if fitted.task not in (task.name, task.parent):
        raise CompatbenchError(
            f"{path} was fitted for the task '{fitted.task}', whose classes are not those of "
            f"'{task.name}'; evaluate it on that, or on a variant of it"
        )
    owner = task if opened else load_task(fitted.task)
    if fitted.classes is not None and not opened:
        owner, task = (restrict_task(each, fitted.classes) for each in (owner, task))
    labels = owner.labels_for(method.card.needs)
    [transfer] = builtin_transfers().choose([transfer])
    way, words = find_transfer(transfer), None
    if transfer != COPIED and method.card.depth == "none":
        raise CompatbenchError(f"a module of '{fitted.method}' is the same whatever the transfer")
    way.require(method.card)
    if way.card.access == {"words"}:
        words = find_words(path, fitted.source)
    images = TaskImages(hide_labels(owner), TrainingCard(), fitted.seed or 0, cache)
    unlabelled = hide_labels(task)
    load = partial(load_backbone, device=device, precision=precision)
    target_backbone = load(backbone)
    source_backbone: Backbone | None = target_backbone
    if backbone != fitted.source:
        try:
            source_backbone = load(fitted.source)
        except CompatbenchError:
            if words is None:
                raise
            source_backbone = None

    def judge_on(on: Backbone, how: Transfer) -> tuple[Judged, str]:
        moved = module.to(on.device)
        name = find_teacher(method.card, fitted.config) if "labels" in how.card.access else None
        teacher = None if name is None else load(name)
        carried = Carried(method, moved, source_backbone, on, labels, images, teacher)
        given = carried.data(how, WordFeatures(cache.folder.parent), words)
        attached = carried.attach(how, given)
        zero_shot = predict_zero_shot(on, unlabelled, cache)
        labels_of_test = label_tensor(task.split("test"))
        judged = Judged(attached.predict(unlabelled), None, zero_shot, labels_of_test)
        return judged, getattr(attached.classifier, "note", "")

    source = target = None
    reason = note = ""
    try:
        if source_backbone is not None:
            source, _ = judge_on(source_backbone, find_transfer(COPIED))
    except NotTransferable as why:
        raise CompatbenchError(
            f"{path} does not fit its own source '{fitted.source}' and task '{fitted.task}' as "
            f"they are now: {why.reason}"
        ) from None
    try:
        target, note = judge_on(
            target_backbone, way if backbone != fitted.source else find_transfer(COPIED)
        )
    except NotTransferable as why:
        reason = why.reason
    how = {"transfer": transfer, "note": note, "precision": precision}
    return Evaluation(fitted, backbone, task.name, source, target, reason, **how)
