"""The images of a task, encoded and from the cache, as methods and transfers receive them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from compatbench.backbone import FEATURES, Backbone, ImageInput
from compatbench.data.cards import TrainingCard
from compatbench.data.cards.shots import ALL_SHOTS
from compatbench.data.draws import Draw
from compatbench.data.feature_cache import FeatureCache, StoredRows
from compatbench.data.images.source import Sample
from compatbench.data.images.views import View
from compatbench.data.task import Task
from compatbench.method import FeatureSet, FewShotData, Method, Teacher

UNKNOWN = -1  # the label of a test image for fits and predictions, and of unlabelled images


@lru_cache(maxsize=64)
def hide_labels(task: Task) -> Task:
    """Return the task as fits and predictions see it: without the labels of its test images."""
    hidden = copy(task)
    hidden.source = copy(task.source)
    test_images = [replace(sample, label=UNKNOWN) for sample in task.split("test")]
    hidden.source.samples = {**task.source.samples, "test": test_images}
    if task.part is not None:
        hidden.part = task.part._replace(whole=hide_labels(task.part.whole))
    return hidden


def label_tensor(samples: Sequence[Sample]) -> Tensor:
    """Return the labels of samples, ``[samples]``."""
    return torch.tensor([sample.label for sample in samples], dtype=torch.long)


@dataclass(frozen=True)
class TaskImages:
    """A task's images, with the training card and the seed that decide their views."""

    task: Task
    training: TrainingCard
    seed: int
    cache: FeatureCache

    @property
    def pool(self) -> list[Sample]:
        """The training images in an order that the seed draws.

        The order of a split is that of its classes, which would reveal the labels.
        """
        split = self.task.split("train")
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(self.seed))
        return [split[i] for i in order.tolist()]

    def read(
        self,
        backbone: Backbone,
        samples: Sequence[Sample],
        image_input: ImageInput = FEATURES,
        split: str | None = None,
    ) -> Tensor | StoredRows:
        """Return the inputs of a classifier for samples of a split; features are ``[N, e]``."""
        whole = None if split is None else self.task.split(split)
        if image_input == FEATURES:
            return self.cache.features(backbone, self.task, samples, whole)
        [tokens] = self.cache.tokens(backbone, self.task, samples, image_input, split=whole)
        return tokens

    def few_shot(
        self,
        draw: Draw,
        shots: int,
        backbone: Backbone,
        method: Method,
        teacher: Backbone | None = None,
    ) -> FewShotData:
        """Return a draw encoded for a method's fit, with what else its card needs."""
        image_input = method.image_input(backbone)
        if shots == ALL_SHOTS:  # recipes that count in shots need a number
            shots = max(Counter(sample.label for sample in draw.train).values(), default=0)
        takes_unlabelled = "unlabelled" in method.card.needs
        images = len(self.task.split("train")) if takes_unlabelled else len(draw.train)
        views = self.training.list_views(method.count_epochs(shots, images))
        unlabelled = None
        if takes_unlabelled:
            pool = self._encode(backbone, "train", self.pool, views, image_input)
            unlabelled = replace(pool, targets=torch.full_like(pool.targets, UNKNOWN))
        train = self._encode(backbone, "train", draw.train, views, image_input)
        val = self._encode(backbone, "val", draw.val, [View()], image_input)
        labels = self.task.labels_for(method.card.needs)
        teacher_data = None
        if teacher is not None:
            teacher_data = Teacher(teacher, self.few_shot(draw, shots, teacher, method))
        return FewShotData(labels, shots, train, val, unlabelled, teacher_data)

    def _encode(
        self,
        backbone: Backbone,
        split: str,
        samples: Sequence[Sample],
        views: list[View],
        image_input: ImageInput,
    ) -> FeatureSet:
        """Return samples of a split under these views: features, labels, and tokens if needed."""
        whole = self.task.split(split)
        features = self.cache.features_of_views(
            backbone, self.task, samples, [View(), *views], whole
        )
        plain, *seen = features
        tokens = None
        if image_input != FEATURES:
            tokens = self.cache.tokens(backbone, self.task, samples, image_input, views, whole)
        targets = label_tensor(samples).to(backbone.device)
        return FeatureSet(plain, torch.stack(seen), targets, tokens)
