"""A fitted module on a backbone: collect what its transfer may use, and attach it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import FEATURES, Backbone, ImageInput, Labels
from compatbench.backbone.device import wait_for
from compatbench.backbone.words import WordFeatures
from compatbench.data.draws import draw_first
from compatbench.data.images.source import Sample
from compatbench.data.task import Task
from compatbench.engine.cell import NOT_APPLICABLE
from compatbench.engine.predict import (
    draw_order,
    order_seed,
    predict_module,
    prompt_diversity,
    run_classifier,
)
from compatbench.engine.task_images import TaskImages
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.method import Classifier, FewShotData, Method, Module
from compatbench.method.predictions import Predictions
from compatbench.method.transfer import (
    ModulePair,
    OldAnswers,
    Transfer,
    TransferData,
    Unlabelled,
    WordPair,
)


@dataclass(frozen=True)
class Carried:
    """A fitted module, the backbone that it was fitted on, and the one to attach it to.

    ``source`` is None where it is not available. Then only its ``words`` are needed.
    """

    method: Method
    module: Module  # on the target's device
    source: Backbone | None
    target: Backbone
    labels: Labels
    images: TaskImages
    teacher: Backbone | None = None  # that the method needs for a fit
    # Modules of other tasks on both backbones; a run has them, and a single module does not.
    others: Callable[[], tuple[ModulePair, ...]] | None = None

    @property
    def stream(self) -> int | None:
        """The seed of the order of test images, for a method that needs a stream."""
        return self.images.seed if "stream" in self.method.card.needs else None

    @cached_property
    def _on_source(self) -> Classifier:
        assert self.source is not None
        with torch.no_grad():
            return self.method.attach(self.module, self.source, self.labels)

    @torch.no_grad()
    def old_answers(
        self, test_set: Task, samples: Sequence[Sample], split: str | None = None
    ) -> OldAnswers:
        """Return the old model's logits for samples of a test set, or of a split of the task."""
        source = self.source
        assert source is not None
        images = TaskImages(test_set, self.images.training, self.images.seed, self.images.cache)
        inputs = images.read(source, samples, self.method.image_input(source), split)
        features = images.read(source, samples, split=split)
        normalised = F.normalize(features, dim=-1)  # type: ignore[arg-type]
        zero_shot = source.logit_scale * normalised @ source.zero_shot(self.labels).T
        together = self.stream is not None
        if self.stream is not None:
            order = draw_order(len(inputs), self.stream)
        elif split is None:
            order = draw_order(len(inputs), order_seed(test_set))
        else:
            order = torch.arange(len(inputs))  # training images come in a drawn order
        return OldAnswers(run_classifier(self._on_source, inputs, order, together), zero_shot)

    def data(
        self, transfer: Transfer, words: WordFeatures, source_words: Tensor | None = None
    ) -> TransferData:
        """Compute the data that a transfer's card declares, and return it.

        ``source_words`` are the source's word features ``[V, e_s]``, if they are known.

        Raises:
            NotTransferable: an image tower cannot give the method's input.
            CompatbenchError: the transfer needs modules of other tasks, and there are none.
        """
        access = transfer.card.access
        parts: dict[str, Any] = {}
        if "words" in access:
            if source_words is None:
                assert self.source is not None
                source_words = words.of(self.source)
            parts["words"] = WordPair(source_words, words.of(self.target))
        if "unlabelled" in access:
            parts["unlabelled"] = self._unlabelled(transfer)
        if "labels" in access:
            parts["labels"] = self._labelled(transfer)
        if "source weights" in access:
            parts["source"] = self.source
        if "modules" in access:
            if self.others is None:
                raise CompatbenchError(
                    f"transfer '{transfer.card.name}' needs modules of other tasks on both models, "
                    "which a single module does not have; use it in a run (run --transfers "
                    f"{transfer.card.name})"
                )
            parts["modules"] = self.others()
        return TransferData(transfer, self.images.seed, **parts)

    def _unlabelled(self, transfer: Transfer) -> Unlabelled:
        """Return the task's training images on both backbones, with the old model's logits."""
        images = self.images
        pool = images.pool
        source = self.source
        image_input = transfer.image_input(self.method, self.target)
        assert source is not None
        on_source = images.read(source, pool, FEATURES, "train")
        on_target = images.read(self.target, pool, FEATURES, "train")
        inputs = images.read(self.target, pool, image_input, "train")
        old = self.old_answers(images.task, pool, "train")
        old_inputs = None
        if "source weights" in transfer.card.access:
            old_inputs = images.read(source, pool, self.method.image_input(source), "train")
        return Unlabelled(
            source=on_source,  # type: ignore[arg-type]
            target=on_target,  # type: ignore[arg-type]
            inputs=inputs,
            old=old,
            source_scale=source.logit_scale,
            old_inputs=old_inputs,
        )

    def _labelled(self, transfer: Transfer) -> FewShotData:
        """Return the transfer's own few-shot draw on the target."""
        images = self.images
        shots = transfer.config.shots
        if transfer.card.plain:
            training = images.training.model_copy(update={"views": 1})
            images = replace(images, training=training)
        draw = draw_first(images.task, shots, images.seed, images.training.val_shots)
        return images.few_shot(draw, shots, self.target, self.method, self.teacher)

    @torch.no_grad()
    def attach(self, transfer: Transfer, data: TransferData, diversity: bool = False) -> Attached:
        """Attach the module through a transfer. Measure ``prompt_diversity`` only if requested.

        Raises as ``Transfer.attach``.
        """
        wait_for(self.target.device)
        start = time.perf_counter()
        image_input = transfer.image_input(self.method, self.target)
        classifier = transfer.attach(self.method, self.module, self.target, self.labels, data)
        spread = None
        if diversity:
            contexts = self.method.contexts(self.module, self.target, self.labels)
            spread = prompt_diversity(contexts)
        if spread is not None:
            spread = round(spread, 4)
        wait_for(self.target.device)
        seconds = time.perf_counter() - start
        return Attached(classifier, self, transfer, data, image_input, spread, seconds)


@dataclass(frozen=True)
class Attached:
    """A classifier, with the module, transfer and data that it was made from."""

    classifier: Classifier
    carried: Carried  # with the labels that it was attached to
    transfer: Transfer
    data: TransferData
    image_input: ImageInput  # the classifier's input for an image
    diversity: float | None  # of the prompts, as ``prompt_diversity``
    seconds: float  # of attaching, wall clock

    @cached_property
    def keeps_classes(self) -> str:
        """The reason why the module serves no other classes than its own; empty if it does.

        A module that keeps something of each class refuses fewer classes, which the conformance kit
        checks (``class_subset``). So it is attached without its first class, on its source, which
        it fits without a transfer. Otherwise it would serve as many other classes as its own,
        under their names.
        """
        carried = self.carried
        labels = carried.labels
        fewer = replace(labels, names=labels.names[1:], descriptions=labels.descriptions[1:])
        backbone = carried.source or carried.target
        try:
            with torch.no_grad():
                carried.method.attach(carried.module, backbone, fewer)
        except NotTransferable as error:
            return error.reason
        return ""

    def to_others(self, labels: Labels) -> Attached:
        """Return the same module attached to other classes than those it was fitted for.

        Raises:
            NotTransferable: the module keeps something of each class, or the transfer needs images
                of the module's own classes.
        """
        reason = ""
        if "unlabelled" in self.transfer.card.access:
            name = self.transfer.card.name
            reason = f"the transfer '{name}' is given images of the module's classes alone"
        elif self.keeps_classes:
            reason = "the module knows the classes it was fitted for and no others "
            reason += f"({self.keeps_classes})"
        if reason:
            raise NotTransferable(f"{NOT_APPLICABLE}: {reason}")
        carried = replace(self.carried, labels=labels)
        return carried.attach(self.transfer, self.data, self.diversity is not None)

    def predict(self, test_set: Task) -> Predictions:
        """Return the predictions for a test set; raises as ``predict_module``."""
        carried = self.carried
        old = None
        if "old model" in self.transfer.card.access:
            old = carried.old_answers(test_set, test_set.split("test"))
        return predict_module(
            self.classifier,
            carried.target,
            test_set,
            carried.images.cache,
            image_input=self.image_input,
            classes=len(carried.labels),
            stream=carried.stream,
            old=old,
        )
