"""What cells cost before they are run: counted from cards and model sizes, or measured before.

The work of a cell is counted in floating-point operations and in calls, and divided by the rate
of a matrix product, measured here and now. Cells of a method that has finished cells are scaled
to what those took. The estimate is meant to hold within a factor of two for a whole suite.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cache, lru_cache
from typing import Any

import torch
from torch import nn

from compatbench.backbone.load import read_backbone
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import COPIED, TaskCard, task_cards
from compatbench.data.images import View
from compatbench.engine.cell import Cell
from compatbench.engine.matrix import Matrix, MethodChoice, Place
from compatbench.engine.missing import fit_backbones, suite_backbones
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import sha256_json
from compatbench.files.kinds import require
from compatbench.method.trained import TrainedMethod

FLOAT = 4  # bytes
# What a class name takes in CLIP's tokens, with the end of text.
NAME_TOKENS = 4
# A worker keeps so many backbones.
BACKBONES_AT_HAND = 4
BATCH = 128  # images that are encoded together
WIDEST = 6  # the hidden layer of an MLP, four times as wide, beside what enters and leaves it

# Seconds beside the matrix products, on one core of these years: of a training step, of one
# block of a tower in it, of a closed-form fit, and of one record.
STEP_SECONDS = 6e-4
BLOCK_SECONDS = 1e-3
CLOSED_FORM_SECONDS = 0.3
RECORD_SECONDS = 0.02
TEXT_PLACES = {"text-input", "text-layers"}


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a backbone's architecture."""

    parameters: int
    embed_dim: int
    image_flops: float  # floating-point operations of one image
    text_weights: int  # parameters of the text tower's blocks
    text_blocks: int
    image_blocks: int
    batch_bytes: int  # the widest activations of one batch of images


@dataclass(frozen=True)
class Costs:
    """What a matrix costs, by what is counted."""

    steps: int  # of optimisers, in all fits
    images: int  # encodings of an image by a backbone under a view; none may be cached
    features_bytes: int  # of the features of these
    encode_flops: float  # of encoding them
    # Weights that a worker keeps, one batch of images, and the features of a fit.
    memory_bytes: int
    unknown: tuple[str, ...]  # backbones whose size is not known before they are loaded


def count_costs(matrix: Matrix) -> Costs:
    """Counts images, bytes and operations from cards alone; no image or weight has to be here."""
    suite = matrix.suite
    cards = {name: task_cards.read(name) for name in task_cards.names()}
    tests = [test for task in matrix.tasks for test in matrix.tests(task)]
    tested = sum(cards[test].counts.get("test", 0) for test in tests)
    # Training images under every view and plain, and those of validation; and of the largest fit.
    drawn = largest = 0
    for card in (cards[task] for task in matrix.tasks):
        classes, images = len(card.classes), card.counts.get("train", 0)
        for shots in matrix.shots:
            train = min(classes * shots, images)
            views = [{View()}, *_views(matrix, card, shots, train)]
            drawn += train * len(set.union(*views))
            largest = max(largest, train * max(map(len, views)))
            trainings = (choice.settings[card.name].training for choice in matrix.choices)
            for most in {training.val_shots for training in trainings}:
                drawn += min(classes * min(shots, most), card.counts.get("val", train))
    sizes = {name: measure_model(name) for name in suite_backbones(suite)}
    encoded = dict.fromkeys(sizes, tested)
    for name in fit_backbones(suite):
        encoded[name] += len(matrix.seeds) * drawn
    known = {name: size for name, size in sizes.items() if size is not None}
    weights = sorted((size.parameters * FLOAT for size in known.values()), reverse=True)
    batch = max((size.batch_bytes for size in known.values()), default=0)
    features = largest * max((size.embed_dim for size in known.values()), default=0) * FLOAT
    copied = [place for place in matrix.places if place.choice.transfer == COPIED]
    fits = Counter((place.choice, place.task, place.shots) for place in copied)
    return Costs(
        steps=sum(n * count_steps(one, cards[task], k) for (one, task, k), n in fits.items()),
        images=sum(encoded.values()),
        features_bytes=sum(encoded[n] * size.embed_dim * FLOAT for n, size in known.items()),
        encode_flops=sum(encoded[n] * size.image_flops for n, size in known.items()),
        memory_bytes=sum(weights[:BACKBONES_AT_HAND]) + batch + features,
        unknown=tuple(name for name, size in sizes.items() if size is None),
    )


def _views(matrix: Matrix, card: TaskCard, shots: int, images: int) -> Iterator[set[View]]:
    """The views of a task's training images that each method learns from."""
    for choice in matrix.choices:
        if choice.method.card.learns:
            if "unlabelled" in choice.method.card.needs:
                images = card.counts.get("train", 0)
            epochs = choice.build(card.name).count_epochs(_shots(card, shots), images)
            yield set(choice.settings[card.name].training.list_views(epochs))


def count_steps(choice: MethodChoice, card: TaskCard, shots: int) -> int:
    """Optimiser steps of a fit; 0 for a method that is not trained in steps."""
    images = card.counts.get("train", 0)
    if "unlabelled" not in choice.method.card.needs:
        images = min(len(card.classes) * shots, images)
    method = choice.build(card.name)
    if not isinstance(method, TrainedMethod):
        return 0
    return math.prod(method.plan_steps(_shots(card, shots), images))


def _shots(card: TaskCard, shots: int) -> int:
    """Shots that recipes count in, where ``shots`` may be all images."""
    return min(shots, card.counts.get("train", 0) // max(len(card.classes), 1))


class TimeEstimate:
    """Seconds that the cells of a matrix take, image features aside.

    At so many operations a second, and as counted, but for methods with finished cells.
    """

    def __init__(
        self, matrix: Matrix, rate: float, finished: Iterable[tuple[Cell, float]] = ()
    ) -> None:
        self._tests = cache(matrix.tests)
        self._rate = rate
        self._choices = {(c.name, c.transfer): c for c in matrix.choices}
        self._read_card = cache(task_cards.read)
        self._count = cache(self._count_seconds)
        # By method, what its finished cells took relative to what is counted.
        self._pace: dict[str, float] = {}
        spent: dict[str, float] = defaultdict(float)
        counted: dict[str, float] = defaultdict(float)
        for cell, seconds in finished:
            spent[cell.name] += seconds
            counted[cell.name] += self.cell(cell)
        self._pace = {name: spent[name] / counted[name] for name in spent if counted[name] > 0}

    def cell(self, cell: Cell) -> float:
        """Seconds of a cell of the matrix."""
        choice = self._choices[cell.name, cell.transfer]
        return self.place(Place(choice, cell.task, cell.shots, cell.seed, cell.backbones))

    def place(self, place: Place) -> float:
        """Seconds of the cell at a place: its fit, and its evaluation everywhere."""
        pace = self._pace.get(place.choice.name, 1.0)
        return pace * self._count(place.choice, place.task, place.shots, place.backbones)

    def _count_seconds(
        self, choice: MethodChoice, task: str, shots: int, backbones: tuple[str, ...]
    ) -> float:
        method, card = choice.method.card, self._read_card(task)
        tests = list(map(self._read_card, self._tests(task)))
        images = sum(test.counts.get("test", 0) for test in tests)
        seconds = 0.0
        for backbone in backbones:
            if (size := measure_model(backbone)) is not None:
                # Of one test image, beside a product with the class weights.
                texts = 2.0 * size.text_weights * len(card.classes) * NAME_TOKENS
                flops = texts * method.prompts_per_image
                flops += size.image_flops if "image-layers" in method.places else 0.0
                seconds += flops * images / self._rate + len(tests) * RECORD_SECONDS
        source = measure_model(backbones[0])
        if source is not None and choice.transfer == COPIED and method.learns:
            seconds += self._fit_seconds(choice, card, shots, source)
        return seconds

    def _fit_seconds(
        self, choice: MethodChoice, card: TaskCard, shots: int, size: ModelSize
    ) -> float:
        method, classes = choice.method.card, len(card.classes)
        images = min(classes * shots, card.counts.get("train", 0))
        if not isinstance(fitted := choice.build(card.name), TrainedMethod):
            return CLOSED_FORM_SECONDS
        steps = count_steps(choice, card, shots)
        seconds, places = STEP_SECONDS, set(method.places)
        if places & TEXT_PLACES:
            # Forward and backward to the inputs: the weights are frozen.
            flops = 4.0 * size.text_weights * classes * NAME_TOKENS
            text = flops / self._rate + size.text_blocks * BLOCK_SECONDS
            seconds += method.step_cost * text
        if "image-layers" in places:
            flops = 3.0 * size.image_flops * min(fitted.config.recipe.batch_size, images)
            seconds += flops / self._rate + size.image_blocks * BLOCK_SECONDS
        return steps * seconds


@lru_cache(maxsize=64)
def measure_model(name: str) -> ModelSize | None:
    """The sizes of a backbone, from its architecture alone; None if that is not open_clip's.

    Its weights need not be here. Sizes are kept in the cache folder, for an architecture takes
    seconds to build.
    """
    try:
        card = read_backbone(name)
    except CompatbenchError:
        return None  # what is wrong with it is reported elsewhere
    if card.provider == "hf":
        return None
    names = [field.name for field in fields(ModelSize)]
    key = sha256_json([card.config, card.model_dump(mode="json"), names])
    path = default_cache_folder() / "model-sizes" / f"{key[:16]}.json"
    with suppress(CompatbenchError, OSError, ValueError, TypeError):
        return ModelSize(**json.loads(require(path, follow=True).read_bytes()))
    size = _build_and_measure(card)
    if size is not None:
        with suppress(CompatbenchError):  # it is built again the next time
            write_atomic(path, json.dumps(asdict(size)).encode(), sync=False)
    return size


def _build_and_measure(card: Any) -> ModelSize | None:
    from compatbench.backbone.build import build_architecture

    try:
        model = build_architecture(card, device="meta")
    except CompatbenchError:
        return None
    visual: Any = model.visual
    text: Any = model.text if isinstance(getattr(model, "text", None), nn.Module) else model
    patches = next((m for m in visual.modules() if isinstance(m, nn.Conv2d)), None)
    if patches is None:
        return None
    size, width = visual.preprocess_cfg["size"], patches.out_channels
    side = size if isinstance(size, int) else min(size)
    tokens = (side // patches.kernel_size[0]) ** 2 + 1
    projection = getattr(text, "text_projection", None)
    if isinstance(projection, nn.Linear):
        projection = projection.weight.T
    return ModelSize(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        embed_dim=width if projection is None else projection.shape[1],
        image_flops=2.0 * sum(parameter.numel() for parameter in visual.parameters()) * tokens,
        text_weights=sum(parameter.numel() for parameter in text.transformer.parameters()),
        text_blocks=_count_blocks(text.transformer),
        image_blocks=_count_blocks(visual),
        batch_bytes=BATCH * tokens * width * WIDEST * FLOAT,
    )


def _count_blocks(tower: nn.Module) -> int:
    """The length of the longest list of modules in a tower."""
    lists = [m for m in tower.modules() if isinstance(m, (nn.ModuleList, nn.Sequential))]
    return max((len(modules) for modules in lists), default=1)


@lru_cache(maxsize=8)
def measure_rate(device: str) -> float:
    """Floating-point operations a second of float32 matrix products on a device, now."""
    size, threads = 1024, torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker has
    a = torch.randn(size, size, device=device)
    wait = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    torch.mm(a, a)
    wait()
    start, products = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < 0.05:
        torch.mm(a, a)
        wait()
        products += 1
    torch.set_num_threads(threads)
    return 2.0 * size**3 * products / spent
