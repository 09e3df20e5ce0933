"""An attached module, measured on test sets: the one place where answers are counted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compatbench.backbone import FEATURES, Backbone, ImageInput
from compatbench.data.feature_cache import FeatureCache, StoredRows
from compatbench.data.task import Sample, Task
from compatbench.engine.predictions import Predictions, predict
from compatbench.method import Classifier
from compatbench.transfer.rotated_backbone import RotatedBackbone


@dataclass(frozen=True)
class Measured:
    """What a classifier answers for the images of a test set.

    Attributes:
        predictions: classes and confidences, ``[images]``.
        targets: labels, ``[images]``.
        zero_shot: classes that the backbone's own zero-shot classifier predicts, ``[images]``.
        seconds: wall clock of the classification alone.
    """

    predictions: Predictions
    targets: Tensor
    zero_shot: Tensor
    seconds: float

    @property
    def right(self) -> Tensor:
        """Whether each image is classified right, ``[images]``."""
        return self.predictions.classes == self.targets

    @property
    def zero_shot_right(self) -> Tensor:
        """Whether zero-shot classifies each image right, ``[images]``."""
        return self.zero_shot == self.targets


@torch.no_grad()
def measure(
    classifier: Classifier,
    backbone: Backbone,
    test_set: Task,
    cache: FeatureCache,
    wanted: ImageInput = FEATURES,
    classes: int | None = None,
) -> Measured:
    """Classifies a test set with a module that was attached to a backbone.

    The module is attached to its task's classes. For a variant with some of them, the logits of
    these are taken: a module that learned something of each class has no other meaning there,
    and prompts give the same either way.

    Args:
        wanted: what the classifier takes for an image, as the method's ``image_input`` says.
        classes: how many classes the classifier knows; those of the test set by default.

    Raises:
        NotTransferable: the backbone's image tower cannot give what is wanted.
        ValueError: logits of a wrong shape, or not finite.
    """
    samples = test_set.split("test")
    features = inputs = read_features(backbone, test_set, cache)
    if wanted != FEATURES:
        inputs = cache.tokens(_encoder(backbone), test_set, samples, wanted)
    zero_shot = (features @ backbone.zero_shot(test_set.labels).T).argmax(-1)
    targets = label_tensor(samples)
    start = time.perf_counter()
    logits = classify(classifier, inputs)
    shape = (len(samples), classes or len(test_set.labels))
    if tuple(logits.shape) != shape:
        raise ValueError(f"logits have shape {list(logits.shape)}, not {list(shape)}")
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("logits are not finite")
    predictions = predict(test_set.select_columns(logits))
    seconds = time.perf_counter() - start
    return Measured(predictions, targets, zero_shot.cpu(), seconds)


def label_tensor(samples: Sequence[Sample]) -> Tensor:
    """The labels of samples, ``[samples]``."""
    return torch.tensor([sample.label for sample in samples], dtype=torch.long)


def read_features(backbone: Backbone, test_set: Task, cache: FeatureCache) -> Tensor:
    """Features of a test set, not normalised, ``[images, e]``.

    Those of a rotated backbone are the rotated features of the backbone itself.
    """
    features = cache.features(_encoder(backbone), test_set, test_set.split("test"))
    return backbone.rotate(features) if isinstance(backbone, RotatedBackbone) else features


def _encoder(backbone: Backbone) -> Backbone:
    return backbone.unrotated if isinstance(backbone, RotatedBackbone) else backbone


@torch.no_grad()
def classify(classifier: Classifier, inputs: Tensor | StoredRows) -> Tensor:
    """Logits ``[images, classes]``; what lies on disk is read and classified batch by batch."""
    if isinstance(inputs, Tensor):
        return classifier(inputs)
    return torch.cat([classifier(batch) for batch in inputs.batches()])
