"""A module on its way to another backbone: what its transfer is given, and what is attached."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from compatbench.backbone import FEATURES, Backbone, ImageInput, Labels
from compatbench.backbone.device import wait_for
from compatbench.backbone.parts.products import fast_products
from compatbench.backbone.words import WordFeatures
from compatbench.data.draws import draw_first
from compatbench.data.images.source import Sample
from compatbench.data.task import Task
from compatbench.engine.cell import NOT_APPLICABLE
from compatbench.engine.predict import predict_module, prompt_diversity, run_classifier
from compatbench.engine.task_images import TaskImages
from compatbench.errors import NotTransferable
from compatbench.method import Classifier, Method, Module
from compatbench.method.predictions import Predictions
from compatbench.method.transfer import OldAnswers, Transfer, TransferData, Unlabelled, WordPair


@dataclass(frozen=True)
class Carried:
    """A fitted module, the backbone that it was fitted on, and the one that it shall reach.

    ``source`` is None where it is not at hand, and nothing but its ``words`` is needed.
    """

    method: Method
    module: Module  # on the target's device
    source: Backbone | None
    target: Backbone
    labels: Labels
    images: TaskImages
    teacher: Backbone | None = None  # that the method needs for a fit

    @property
    def stream(self) -> int | None:
        """The seed of the order of test images, for a method that needs a stream."""
        return self.images.seed if "stream" in self.method.card.needs else None

    @cached_property
    def _on_source(self) -> Classifier:
        assert self.source is not None
        with torch.no_grad():
            return self.method.attach(self.module, self.source, self.labels)

    @fast_products()
    @torch.no_grad()
    def old_answers(
        self, test_set: Task, samples: Sequence[Sample], split: str | None = None
    ) -> OldAnswers:
        """What the old model says of samples of a test set, or of a split of the task."""
        source = self.source
        assert source is not None
        images = TaskImages(test_set, self.images.training, self.images.seed, self.images.cache)
        inputs = images.see(source, samples, self.method.image_input(source), split)
        features = F.normalize(images.see(source, samples, split=split), dim=-1)  # type: ignore[arg-type]
        zero_shot = source.logit_scale * features @ source.zero_shot(self.labels).T
        return OldAnswers(run_classifier(self._on_source, inputs, self.stream), zero_shot)

    @fast_products()
    def data(
        self, transfer: Transfer, words: WordFeatures, source_words: Any = None
    ) -> TransferData:
        """What a transfer's card declares, computed here and now.

        ``source_words`` are the source's word features ``[V, e_s]``, if they are known.

        Raises:
            NotTransferable: an image tower cannot give what the method takes.
        """
        access, parts = transfer.card.access, dict[str, Any]()
        if "words" in access:
            if source_words is None:
                assert self.source is not None
                source_words = words.of(self.source)
            parts["words"] = WordPair(source_words, words.of(self.target))
        if "unlabelled" in access:
            parts["unlabelled"] = self._unlabelled(transfer)
        if "labels" in access:
            images, shots = self.images, transfer.config.shots
            if transfer.card.plain:
                training = images.training.model_copy(update={"views": 1})
                images = replace(images, training=training)
            draw = draw_first(images.task, shots, images.seed, images.training.val_shots)
            parts["labels"] = images.few_shot(draw, shots, self.target, self.method, self.teacher)
        if "source weights" in access:
            parts["source"] = self.source
        return TransferData(transfer, self.images.seed, **parts)

    def _unlabelled(self, transfer: Transfer) -> Unlabelled:
        images, pool = self.images, self.images.pool
        wanted = transfer.image_input(self.method, self.target)
        seen = [
            images.see(model, pool, FEATURES, "train")
            for model in (self.source, self.target)
            if model
        ]
        inputs = images.see(self.target, pool, wanted, "train")
        old, source = self.old_answers(images.task, pool, "train"), self.source
        assert source is not None
        on_source = None
        if "source weights" in transfer.card.access:
            on_source = images.see(source, pool, self.method.image_input(source), "train")
        return Unlabelled(*seen, inputs, old, source.logit_scale, on_source)  # type: ignore[arg-type]

    @fast_products()
    @torch.no_grad()
    def attach(self, transfer: Transfer, data: TransferData, diversity: bool = False) -> Attached:
        """The module through a transfer, by default without its ``diversity``.

        Raises as ``Transfer.attach``.
        """
        method, module, target, labels = self.method, self.module, self.target, self.labels
        wait_for(target.device)
        start = time.perf_counter()
        wanted = transfer.image_input(method, target)
        classifier = transfer.attach(method, module, target, labels, data)
        spread = None
        if diversity:
            spread = prompt_diversity(method.contexts(module, target, labels))
            spread = None if spread is None else round(spread, 4)
        wait_for(target.device)
        seconds = time.perf_counter() - start
        return Attached(classifier, self, transfer, data, wanted, spread, seconds)


@dataclass(frozen=True)
class Attached:
    """A classifier, and what it was made of."""

    classifier: Classifier
    carried: Carried  # with the labels that it was attached to
    transfer: Transfer
    given: TransferData
    wanted: ImageInput  # what it takes for an image
    diversity: float | None  # of the prompts, as ``prompt_diversity``
    seconds: float  # of attaching, wall clock

    @cached_property
    def keeps_classes(self) -> str:
        """Why the module serves no other classes: it keeps something of each of its own; or empty.

        It is asked on its source, which it fits without a transfer: such a module refuses fewer
        classes. That methods do so is a rule of the conformance kit (``class_subset``). Without
        the question, a module would serve as many other classes as its own, under their names.
        """
        carried, labels = self.carried, self.carried.labels
        rest = replace(labels, names=labels.names[1:], descriptions=labels.descriptions[1:])
        try:
            with torch.no_grad():
                on = carried.source or carried.target
                carried.method.attach(carried.module, on, rest)
        except NotTransferable as error:
            return error.reason
        return ""

    @fast_products()
    def to_others(self, labels: Labels) -> Attached:
        """The same module attached to other classes than those it was fitted for.

        Raises:
            NotTransferable: it keeps something of each class, or the transfer needs images of its
                own.
        """
        why = ""
        if "unlabelled" in self.transfer.card.access:
            name = self.transfer.card.name
            why = f"the transfer '{name}' is given images of the module's classes alone"
        elif self.keeps_classes:
            why = "the module knows the classes it was fitted for and no others "
            why += f"({self.keeps_classes})"
        if why:
            raise NotTransferable(f"{NOT_APPLICABLE}: {why}")
        carried = replace(self.carried, labels=labels)
        return carried.attach(self.transfer, self.given, self.diversity is not None)

    @fast_products()
    def predict(self, test_set: Task) -> Predictions:
        """What it answers for a test set; raises as ``predict_module``."""
        carried, old = self.carried, None
        if "old model" in self.transfer.card.access:
            old = carried.old_answers(test_set, test_set.split("test"))
        how = (self.wanted, len(carried.labels), carried.stream, old)
        return predict_module(self.classifier, carried.target, test_set, carried.images.cache, *how)
