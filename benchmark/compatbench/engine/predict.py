"""What an attached module answers for every image of a test set: its predictions, and their file.

Images are classified a batch at a time, sized by what they take and by the memory budget. No
label is read here; predictions are scored by whoever has the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import FEATURES, Backbone, ImageInput, RotatedBackbone
from compatbench.backbone.device import fit_batch
from compatbench.backbone.parts.memory import current_budget
from compatbench.backbone.parts.products import fast_products
from compatbench.data.encoding import BATCH
from compatbench.data.feature_cache import FeatureCache, StoredRows
from compatbench.data.task import Task
from compatbench.engine.cell import Where
from compatbench.errors import CompatbenchError
from compatbench.files.tensors import load_tensors, save_tensors
from compatbench.method import Classifier
from compatbench.method.mistakes import check_logits
from compatbench.method.predictions import Predictions, predict
from compatbench.method.transfer import OldAnswers

SCHEMA = "compatbench-predictions-1"
MOST = 2**30  # bytes that a batch may take, unless the memory budget is less
PROBE = 8  # images whose classification tells what an image takes


@fast_products()
@torch.no_grad()
def predict_module(
    classifier: Classifier,
    backbone: Backbone,
    test_set: Task,
    cache: FeatureCache,
    wanted: ImageInput = FEATURES,
    classes: int | None = None,
    stream: int | None = None,
    old: OldAnswers | None = None,
) -> Predictions:
    """What a module that was attached to a backbone answers for a test set.

    The module is attached to its task's classes. For a variant with some of them, the logits of
    these are taken: a module that learned something of each class has no other meaning there,
    and prompts give the same either way. ``wanted`` is the method's ``image_input``; ``classes``
    are those that the classifier knows, by default as many as the test set has. For a method that
    needs a stream, all images are given in one call, in an order drawn with the seed ``stream``.
    ``old`` are the old model's answers for the test set, for a classifier that takes them.

    Raises:
        NotTransferable: the backbone's image tower cannot give what is wanted.
        ValueError: no logits, logits of a wrong shape, or not finite.
    """
    if wanted == FEATURES:
        inputs = read_features(backbone, test_set, cache)
    else:
        [inputs] = cache.tokens(_encoder(backbone), test_set, test_set.split("test"), wanted)
    width, parts = classes or len(test_set.labels), []
    for count, logits in answer_batches(classifier, inputs, stream, old):
        check_logits(logits, count, width, classifier)
        if not bool(torch.isfinite(logits).all()):
            raise ValueError("logits are not finite")
        parts.append(predict(test_set.select_columns(logits)))
    return Predictions(
        torch.cat([part.classes for part in parts]),
        torch.cat([part.confidence for part in parts]),
    )


@fast_products()
@torch.no_grad()
def predict_zero_shot(backbone: Backbone, test_set: Task, cache: FeatureCache) -> Predictions:
    """What a backbone's own zero-shot classifier answers for a test set."""
    features = read_features(backbone, test_set, cache)
    weights = backbone.zero_shot(test_set.labels)
    classes = (features @ weights.T).argmax(-1).int()
    scaled = backbone.logit_scale * F.normalize(features, dim=-1) @ weights.T
    return Predictions(classes.cpu(), scaled.float().softmax(-1).amax(-1).cpu())


def batch_size(answer: Callable[[Tensor], Tensor], images: int) -> int:
    """How many images ``answer`` is asked for at once.

    All of them, where they take less than ``MOST`` and the memory budget; otherwise a power of
    two.
    """
    if images <= PROBE:
        return images
    room = min(MOST, current_budget() or MOST)
    return fit_batch(lambda count: answer(torch.arange(count)), room, images, PROBE)


def answer_batches(
    classifier: Callable[..., Tensor],
    inputs: Tensor | StoredRows,
    stream: int | None = None,
    old: OldAnswers | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """How many images come next, in order, and their logits ``[images, classes]``.

    The arguments are as for ``predict_module``. A stream is one call, and so one batch.
    """

    def answer(rows: Tensor) -> Tensor:
        rows = rows.to(inputs.device) if isinstance(inputs, Tensor) else rows
        return classifier(inputs[rows]) if old is None else classifier(inputs[rows], old[rows])

    count = len(inputs)
    if stream is not None:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(stream))
        yield count, answer(order)[order.argsort()]
        return
    # What is on disk is read batch by batch.
    size = batch_size(answer, count) if isinstance(inputs, Tensor) else BATCH
    if isinstance(inputs, Tensor) and size >= count:
        yield count, classifier(inputs) if old is None else classifier(inputs, old)
        return
    for rows in torch.arange(count).split(size):
        yield len(rows), answer(rows)


@fast_products()
def run_classifier(
    classifier: Callable[..., Tensor], inputs: Tensor | StoredRows, stream: int | None = None
) -> Tensor:
    """Logits of all images ``[images, classes]``; arguments as for ``predict_module``."""
    return torch.cat([logits for _, logits in answer_batches(classifier, inputs, stream)])


def read_features(backbone: Backbone, test_set: Task, cache: FeatureCache) -> Tensor:
    """Features of a test set, not normalised, ``[images, e]``.

    Those of a rotated backbone are the rotated features of the backbone itself.
    """
    features = cache.features(_encoder(backbone), test_set, test_set.split("test"))
    return backbone.rotate(features) if isinstance(backbone, RotatedBackbone) else features


def _encoder(backbone: Backbone) -> Backbone:
    return backbone.unrotated if isinstance(backbone, RotatedBackbone) else backbone


@torch.no_grad()
def prompt_diversity(contexts: Tensor | None) -> float | None:
    """How much the N vectors of a context ``[N, D]`` or ``[C, N, D]`` differ.

    The mean of 1 − cos over pairs of vectors and over classes: 0 if N prompts are one prompt. None
    for less than two vectors.
    """
    if contexts is None or contexts.shape[-2] < 2:
        return None
    rows = F.normalize(contexts.double(), dim=-1)
    count = rows.shape[-2]
    # The sum of all cosines is the squared length of the sum; N of them are a vector's with itself.
    cosines = rows.sum(-2).square().sum(-1) - rows.square().sum((-2, -1))
    return float(1 - cosines.mean() / (count * (count - 1)))


def write_predictions(path: Path, predictions: Mapping[Where, Predictions], key: str) -> None:
    """Keeps all answers of a cell in one file, which tells the cell's key."""
    tensors: dict[str, Tensor] = {}
    wheres = sorted(predictions)
    for number, where in enumerate(wheres):
        tensors[f"{number}.classes"] = predictions[where].classes
        tensors[f"{number}.confidence"] = predictions[where].confidence
    save_tensors(path, tensors, SCHEMA, {"where": wheres, "key": key}, sync=False)


def read_predictions(path: Path, key: str) -> dict[Where, Predictions]:
    """The answers in a file that ``write_predictions`` wrote for the cell of this key."""
    tensors, about = load_tensors(path, SCHEMA, "predictions file")
    # Files of earlier versions do not tell.
    if about.get("key", key) != key:
        raise CompatbenchError(f"{path} is of another cell")
    return {
        tuple(where): Predictions(tensors[f"{number}.classes"], tensors[f"{number}.confidence"])
        for number, where in enumerate(about["where"])
    }
