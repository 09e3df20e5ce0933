"""A module on its way to another backbone: what its transfer is given, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from compatbench.backbone import FEATURES, Backbone, Labels
from compatbench.data.draws import draw_first
from compatbench.data.images import Sample
from compatbench.data.task import Task
from compatbench.engine.batches import run_classifier
from compatbench.engine.task_images import TaskImages
from compatbench.method import Classifier, Method, Module
from compatbench.transfer import OldAnswers, Transfer, TransferData, Unlabelled, WordPair
from compatbench.transfer.words import WordFeatures


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

    def data(
        self, transfer: Transfer, words: WordFeatures, source_words: Any = None
    ) -> TransferData:
        """What a transfer's card declares, computed here and now.

        ``source_words`` are the source's word features ``[V, e_s]``, if they are known.

        Raises:
            NotTransferable: an image tower cannot give what the method takes.
        """
        access, given = transfer.card.access, dict[str, Any]()
        if "words" in access:
            if source_words is None:
                assert self.source is not None
                source_words = words.of(self.source)
            given["words"] = WordPair(source_words, words.of(self.target))
        if "unlabelled" in access:
            given["unlabelled"] = self._unlabelled(transfer)
        if "labels" in access:
            images, shots = self.images, transfer.config.shots
            draw = draw_first(images.task, shots, images.seed, images.training.val_shots)
            given["labels"] = images.few_shot(draw, shots, self.target, self.method, self.teacher)
        if "source weights" in access:
            given["source"] = self.source
        return TransferData(transfer, self.images.seed, **given)

    def _unlabelled(self, transfer: Transfer) -> Unlabelled:
        images, pool = self.images, self.images.pool
        wanted = transfer.image_input(self.method, self.target)
        seen = [
            images.see(one, pool, FEATURES, "train") for one in (self.source, self.target) if one
        ]
        inputs = images.see(self.target, pool, wanted, "train")
        old = self.old_answers(images.task, pool, "train")
        assert self.source is not None
        return Unlabelled(*seen, inputs, old, self.source.logit_scale)  # type: ignore[arg-type]
