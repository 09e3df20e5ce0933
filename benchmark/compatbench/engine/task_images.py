"""A task's images as a method or a transfer is given them: encoded, from the cache."""

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

UNKNOWN = -1  # the label of a test image, for whoever fits or predicts


@lru_cache(maxsize=64)
def hide_labels(task: Task) -> Task:
    """The task as fits and predictions see it: without the labels of its test images."""
    hidden, hidden.source = copy(task), copy(task.source)
    tested = [replace(sample, label=UNKNOWN) for sample in task.split("test")]
    hidden.source.samples = {**task.source.samples, "test": tested}
    if task.part is not None:
        hidden.part = task.part._replace(whole=hide_labels(task.part.whole))
    return hidden


def label_tensor(samples: Sequence[Sample]) -> Tensor:
    """The labels of samples, ``[samples]``."""
    return torch.tensor([sample.label for sample in samples], dtype=torch.long)


@dataclass(frozen=True)
class TaskImages:
    """A task's images, with the training and the seed that say how they are seen."""

    task: Task
    training: TrainingCard
    seed: int
    cache: FeatureCache

    @property
    def pool(self) -> list[Sample]:
        """The training images in an order that the seed draws.

        A split is in the order of its classes, which would tell the labels.
        """
        split = self.task.split("train")
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(self.seed))
        return [split[i] for i in order.tolist()]

    def see(
        self,
        backbone: Backbone,
        samples: Sequence[Sample],
        wanted: ImageInput = FEATURES,
        split: str | None = None,
    ) -> Tensor | StoredRows:
        """What a classifier takes for samples of a split; features are ``[N, e]``."""
        whole = None if split is None else self.task.split(split)
        if wanted == FEATURES:
            return self.cache.features(backbone, self.task, samples, whole)
        return self.cache.tokens(backbone, self.task, samples, wanted, split=whole)[0]

    def few_shot(
        self,
        draw: Draw,
        shots: int,
        backbone: Backbone,
        method: Method,
        teacher: Backbone | None = None,
    ) -> FewShotData:
        """A draw as a method fits on it, with what else its card needs."""
        task, wanted = self.task, method.image_input(backbone)

        def feature_set(split: str, samples: Sequence[Sample], views: list[View]) -> FeatureSet:
            asked, whole = (backbone, task, samples), task.split(split)
            plain, *seen = self.cache.features_of_views(*asked, [View(), *views], whole)
            tokens = None
            if wanted != FEATURES:
                tokens = self.cache.tokens(*asked, wanted, views, whole)
            targets = label_tensor(samples).to(backbone.device)
            return FeatureSet(plain, torch.stack(seen), targets, tokens)

        if shots == ALL_SHOTS:  # recipes that count in shots need a number
            shots = max(Counter(sample.label for sample in draw.train).values(), default=0)
        unlabelled, free = None, "unlabelled" in method.card.needs
        count = len(task.split("train")) if free else len(draw.train)
        views = self.training.list_views(method.count_epochs(shots, count))
        if free:
            unlabelled = feature_set("train", self.pool, views)
            unlabelled = replace(unlabelled, targets=torch.full_like(unlabelled.targets, -1))
        train = feature_set("train", draw.train, views)
        val, labels = feature_set("val", draw.val, [View()]), task.labels_for(method.card.needs)
        teacher_data = None
        if teacher is not None:
            teacher_data = Teacher(teacher, self.few_shot(draw, shots, teacher, method))
        return FewShotData(labels, shots, train, val, unlabelled, teacher_data)
