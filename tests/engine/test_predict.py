"""Predictions in batches that fit the memory budget, and the diversity of prompts."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import (
    FEATURES,
    Backbone,
    ImageInput,
    Labels,
    load_backbone,
    memory_budget,
)
from compatbench.backbone.device import PeakBytes
from compatbench.data.cards import TrainingCard
from compatbench.data.draws import load_test_set
from compatbench.engine.attach import Carried
from compatbench.engine.predict import (
    MAX_BATCH_BYTES,
    PROBE_IMAGES,
    batch_size,
    predict,
    predict_module,
    prompt_diversity,
    run_classifier,
)
from compatbench.engine.task_images import TaskImages, hide_labels, label_tensor
from compatbench.engine.worker import Worker
from compatbench.method import CosineClassifier, Method, MethodCard, Module

TASK = "mini-weather"


def test_a_batch_fits_the_budget_and_all_images_are_one_where_they_fit() -> None:
    """Classify as CoCoOp does, which has class weights for each image: [batch, classes, e]."""
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(300, 8, generator=draw)
    weights = torch.randn(50, 8, generator=draw)
    batches: list[int] = []

    def classify(features: Tensor) -> Tensor:
        batches.append(len(features))
        return (features[:, None] * weights).sum(-1)

    whole = run_classifier(classify, images, torch.arange(300))
    assert batches == [8, 300]  # first a few, to measure the memory of an image
    assert torch.equal(whole, classify(images))
    budget = 2**16
    image_bytes = 50 * 8 * 4 + 50 * 4 + 8 * 4
    batches.clear()
    with memory_budget(budget), PeakBytes() as peak:
        assert torch.equal(run_classifier(classify, images, torch.arange(300)), whole)
    size = max(batches[1:])
    assert size * image_bytes <= budget < 4 * size * image_bytes
    assert sum(batches[1:]) == 300
    assert peak.peak <= budget + 2 * whole.nbytes + images.nbytes


def test_classifiers_of_the_size_of_imagenet_are_bounded() -> None:
    """Tip-Adapter-F's 16 shots of 1,000 classes, and CoCoOp's texts, over 50,000 images."""

    def cache(rows: Tensor) -> Tensor:
        return torch.empty(len(rows), 16_000).exp()[:, :1000]

    def texts(rows: Tensor) -> Tensor:
        return torch.empty(len(rows), 1000, 512).relu()[..., 0]

    for answer, image_bytes in ((cache, 2 * 16_000 * 4), (texts, 2 * 512_000 * 4)):
        size = batch_size(lambda count: answer(torch.empty(count, 1)), 50_000)  # noqa: B023
        assert MAX_BATCH_BYTES / 4 < size * image_bytes <= MAX_BATCH_BYTES


class PlaceReader:
    """A cheat: the class of an image is read from its place, as if a test set were sorted."""

    def __init__(self, images: int, classes: int) -> None:
        self.images = images
        self.classes = classes
        self.seen = 0  # images of earlier batches

    def __call__(self, rows: Tensor) -> Tensor:
        places = self.seen + torch.arange(len(rows))
        self.seen = (self.seen + len(rows)) % self.images
        guessed = places.clamp(min=0) * self.classes // self.images
        return F.one_hot(guessed, self.classes).float()


def accuracy(classes: Tensor, targets: Tensor) -> float:
    return float((classes == targets).float().mean())


@pytest.mark.parametrize("image_input", [FEATURES, ImageInput("pooled")], ids=lambda x: x.kind)
@pytest.mark.parametrize("stream", [None, 1])
def test_the_place_of_a_test_image_does_not_reveal_its_label(
    worker: Worker, image_input: ImageInput, stream: int | None
) -> None:
    backbone = load_backbone("mini-clip")
    labelled = load_test_set(TASK)
    task = hide_labels(labelled)
    targets = label_tensor(labelled.split("test"))
    classes = len(task.labels)
    sorted_set = PlaceReader(len(targets), classes)(torch.empty(len(targets), 1)).argmax(-1)
    assert accuracy(sorted_set, targets) > 0.9  # the split itself is sorted by class
    cheat = PlaceReader(len(targets), classes)
    if image_input == FEATURES and stream is None:
        cheat.seen = -PROBE_IMAGES  # these come twice
    found = predict_module(cheat, backbone, task, worker.cache, image_input, stream=stream)
    chance = 1 / classes
    noise = (chance * (1 - chance) / len(targets)) ** 0.5
    assert accuracy(found.classes, targets) < chance + 4 * noise


def test_predictions_are_in_the_order_of_the_test_set(worker: Worker) -> None:
    backbone = load_backbone("mini-clip")
    task = hide_labels(load_test_set(TASK))
    classifier = CosineClassifier(backbone.zero_shot(task.labels), backbone.logit_scale)
    features = worker.cache.features(backbone, task, task.split("test"))
    expected = predict(classifier(features))
    calls: list[Tensor] = []

    def classify(rows: Tensor) -> Tensor:
        calls.append(rows)
        return classifier(rows)

    found = predict_module(classify, backbone, task, worker.cache)
    again = predict_module(classify, backbone, task, worker.cache)
    assert torch.equal(found.classes, expected.classes)
    assert torch.allclose(found.confidence, expected.confidence, atol=1e-3)
    assert torch.equal(again.confidence, found.confidence)
    _, first, _, second = calls
    assert torch.equal(first, second)  # the images decide their order
    assert not torch.equal(first, features)


def test_the_old_model_sees_test_images_in_no_order_of_classes(worker: Worker) -> None:
    """Its logits are given to transfers, in the order of the images."""
    backbone = load_backbone("mini-clip")
    labelled = load_test_set(TASK)
    task = hide_labels(labelled)
    targets = label_tensor(labelled.split("test"))
    classes = len(task.labels)

    class Cheat(Method):
        card = MethodCard("cheat", "Cheat", "none", "classifier", "reads places")

        def fit(self, backbone: Backbone, data: Any, rng: Any) -> Module:
            return Module()

        def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Any:
            cheat = PlaceReader(len(targets), classes)
            cheat.seen = -PROBE_IMAGES
            return cheat

    images = TaskImages(task, TrainingCard.model_validate({}), 1, worker.cache)
    carried = Carried(Cheat(), Module(), backbone, backbone, task.labels, images)
    old = carried.old_answers(task, task.split("test"))
    assert accuracy(old.logits.argmax(-1), targets) < 0.5
    assert accuracy(old.zero_shot.argmax(-1), targets) > 0.5


def test_predictions_are_the_largest_logit_and_its_probability() -> None:
    found = predict(torch.tensor([[-2.0, -1.0], [-1.0, 0.0], [2.0, 0.0]]))
    assert found.classes.tolist() == [1, 1, 0]
    confidence = [0.731059, 0.731059, 0.880797]
    assert found.confidence.tolist() == pytest.approx(confidence, abs=2.5e-4)


def test_prompt_diversity_against_a_naive_loop() -> None:
    contexts = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0)) + 0.5
    distances = []
    for vectors in contexts:
        for one, other in combinations(vectors, 2):
            distances.append(1 - float(one.dot(other) / (one.norm() * other.norm())))
    expected = sum(distances) / len(distances)
    assert prompt_diversity(contexts) == pytest.approx(expected, abs=1e-6)
    assert prompt_diversity(torch.ones(4, 6)) == pytest.approx(0, abs=1e-9)
    assert prompt_diversity(torch.eye(4)) == pytest.approx(1)
    assert prompt_diversity(torch.ones(1, 6)) is prompt_diversity(None) is None
