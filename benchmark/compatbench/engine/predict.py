"""Predict: the class and confidence that a classifier gives for every image of a test set.

Images are classified a batch at a time, sized by what they take and by the memory budget. No
label is read here; predictions are scored by whoever has the labels.

A test set is often sorted by class, so the place of an image would reveal its label. A classifier
therefore receives the images in a drawn order, and their predictions are put back into the order of
the test set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import FEATURES, Backbone, ImageInput, RotatedBackbone
from compatbench.backbone.device import fit_batch
from compatbench.backbone.parts.memory import current_budget
from compatbench.data.encoding import BATCH
from compatbench.data.feature_cache import FeatureCache, StoredRows
from compatbench.data.task import Task
from compatbench.method import Classifier
from compatbench.method.mistakes import check_logits
from compatbench.method.predictions import Predictions, predict
from compatbench.method.transfer import OldAnswers

MAX_BATCH_BYTES = 2**30  # of a batch, unless the memory budget is less
PROBE_IMAGES = 8  # classified first, to measure the memory of an image
SEED_DIGITS = 15  # of a hash, which is then an integer of 60 bits


@torch.no_grad()
def predict_module(
    classifier: Classifier,
    backbone: Backbone,
    test_set: Task,
    cache: FeatureCache,
    image_input: ImageInput = FEATURES,
    classes: int | None = None,
    stream: int | None = None,
    old: OldAnswers | None = None,
) -> Predictions:
    """Return the predictions of an attached module for a test set.

    The module is attached to its task's classes. For a variant with some of them, their columns of
    the logits are selected: a module that learned something of each class has no other meaning
    there, and for prompts both are equal.

    Args:
        image_input: the input of the method for an image.
        classes: the number of classes that the classifier knows; by default the test set's.
        stream: the seed of the order of images, for a method that needs a stream: it receives all
            images in one call.
        old: the old model's answers for the test set, for a classifier that takes them.

    Raises:
        NotTransferable: the backbone's image tower cannot give the input.
        ValueError: no logits, logits of a wrong shape, or not finite.
    """
    if image_input == FEATURES:
        inputs = read_features(backbone, test_set, cache)
    else:
        test_images = test_set.split("test")
        [inputs] = cache.tokens(_encoder(backbone), test_set, test_images, image_input)
    width = classes or len(test_set.labels)
    parts = []
    order = draw_order(len(inputs), order_seed(test_set) if stream is None else stream)
    for count, logits in answer_batches(classifier, inputs, order, stream is not None, old):
        check_logits(logits, count, width, classifier)
        if not bool(torch.isfinite(logits).all()):
            raise ValueError("logits are not finite")
        parts.append(predict(test_set.select_columns(logits)))
    places = order.argsort()
    return Predictions(
        torch.cat([part.classes for part in parts])[places],
        torch.cat([part.confidence for part in parts])[places],
    )


@torch.no_grad()
def predict_zero_shot(backbone: Backbone, test_set: Task, cache: FeatureCache) -> Predictions:
    """Return the predictions of a backbone's own zero-shot classifier for a test set."""
    features = read_features(backbone, test_set, cache)
    weights = backbone.zero_shot(test_set.labels)
    classes = (features @ weights.T).argmax(-1).int()
    scaled = backbone.logit_scale * F.normalize(features, dim=-1) @ weights.T
    confidence = scaled.float().softmax(-1).amax(-1)
    return Predictions(classes.cpu(), confidence.cpu())


def run_classifier(
    classifier: Callable[..., Tensor],
    inputs: Tensor | StoredRows,
    order: Tensor,
    together: bool = False,
) -> Tensor:
    """Return the logits of all images, ``[images, classes]``, in the order of ``inputs``.

    The arguments are as for ``answer_batches``.
    """
    batches = answer_batches(classifier, inputs, order, together)
    logits = torch.cat([batch for _, batch in batches])
    return logits[order.argsort().to(logits.device)]


def answer_batches(
    classifier: Callable[..., Tensor],
    inputs: Tensor | StoredRows,
    order: Tensor,
    together: bool = False,
    old: OldAnswers | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of images of each batch, and their logits ``[n, classes]``, in an order.

    Args:
        order: the numbers of the images in the order in which the classifier receives them,
            ``[images]``.
        together: give all images in one call, as a method that needs a stream requires.
        old: the old model's answers for the images, for a classifier that takes them.
    """

    def answer(rows: Tensor) -> Tensor:
        if isinstance(inputs, Tensor):
            rows = rows.to(inputs.device)
        if old is None:
            return classifier(inputs[rows])
        return classifier(inputs[rows], old[rows])

    images = len(inputs)
    if together:
        size = images
    elif isinstance(inputs, Tensor):
        size = batch_size(lambda count: answer(order[:count]), images)
    else:
        size = BATCH  # rows on disk are read batch by batch
    for rows in order.split(max(size, 1)):
        yield len(rows), answer(rows)


def order_seed(test_set: Task) -> int:
    """Return the seed of the order of a test set's images, from the hash of these images."""
    return int(test_set.source.fingerprint(test_set.split("test"))[:SEED_DIGITS], 16)


def draw_order(images: int, seed: int) -> Tensor:
    """Return the numbers of images in a random order, ``[images]``."""
    return torch.randperm(images, generator=torch.Generator().manual_seed(seed))


def batch_size(answer: Callable[[int], object], images: int) -> int:
    """Return the number of images to classify at once; ``answer`` classifies so many of them.

    All of them, if they take less than ``MAX_BATCH_BYTES`` and the memory budget; otherwise a power
    of two.
    """
    if images <= PROBE_IMAGES:
        return images
    room = min(MAX_BATCH_BYTES, current_budget() or MAX_BATCH_BYTES)
    return fit_batch(answer, room, images, PROBE_IMAGES)


def read_features(backbone: Backbone, test_set: Task, cache: FeatureCache) -> Tensor:
    """Return the features of a test set, not normalised, ``[images, e]``.

    Those of a rotated backbone are the rotated features of the backbone itself.
    """
    features = cache.features(_encoder(backbone), test_set, test_set.split("test"))
    if isinstance(backbone, RotatedBackbone):
        return backbone.rotate(features)
    return features


def _encoder(backbone: Backbone) -> Backbone:
    """Return the backbone that encodes images, whose features the cache holds."""
    return backbone.unrotated if isinstance(backbone, RotatedBackbone) else backbone


@torch.no_grad()
def prompt_diversity(contexts: Tensor | None) -> float | None:
    """Return how different the N vectors of a context ``[N, D]`` or ``[C, N, D]`` are.

    It is the mean of 1 − cos over pairs of vectors and over classes: 0 if N prompts are one prompt.
    None for less than two vectors.
    """
    if contexts is None or contexts.shape[-2] < 2:
        return None
    rows = F.normalize(contexts.double(), dim=-1)
    count = rows.shape[-2]
    # The sum of all cosines is the squared length of the sum; N of them are a vector's with itself.
    cosines = rows.sum(-2).square().sum(-1) - rows.square().sum((-2, -1))
    return float(1 - cosines.mean() / (count * (count - 1)))
