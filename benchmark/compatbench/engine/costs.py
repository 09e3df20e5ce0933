"""What cells cost before they are run: counted from cards and model sizes, or measured before.

The work of a cell is counted in floating-point operations and in calls, and divided by the rate
of a matrix product, measured here and now. Cells of a method that has finished cells are scaled
to what those took. The estimate is meant to hold within a factor of two for a whole suite.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

from compatbench.backbone import FEATURES, ImageInput
from compatbench.backbone.text.memory import current_budget
from compatbench.data.cards import COPIED, TaskCard, task_cards
from compatbench.data.decoding import AHEAD, PIECE
from compatbench.data.feature_cache import WHOLE
from compatbench.data.images.views import View
from compatbench.engine.cell import Cell
from compatbench.engine.matrix import Matrix, MethodChoice, Place
from compatbench.engine.missing import fit_backbones, suite_backbones
from compatbench.engine.model_size import FLOAT, ModelSize, measure_model
from compatbench.engine.predict import MOST
from compatbench.method.trained import TrainedMethod

# What a class name takes in CLIP's tokens, with the end of text.
NAME_TOKENS = 4
# A worker keeps so many backbones.
BACKBONES_AT_HAND = 4
PREDICTION = 8  # bytes of an answer: a class and its probability
LIBRARIES = 550 * 2**20  # what a worker's process takes beside models and images
AUTOGRAD = 250 * 2**20  # and what it takes when it has trained through a tower
DECODER = 280 * 2**20  # what a process that decodes takes beside libraries' code and images
KEPT = 16  # numbers that a block keeps for the backward pass, for each of a token's
LOGITS = 3  # copies of all logits that are in use at once

# Seconds beside the matrix products, on one core of these years: of a training step, of one
# block of a tower in it, of a closed-form fit, and of one record.
STEP_SECONDS = 6e-4
BLOCK_SECONDS = 1e-3
CLOSED_FORM_SECONDS = 0.3
RECORD_SECONDS = 0.02
TEXT_PLACES = {"text-input", "text-layers"}


@dataclass(frozen=True)
class Costs:
    """What a matrix costs, by what is counted."""

    steps: int  # of optimisers, in all fits
    images: int  # encodings of an image by a backbone under a view; none may be cached
    features_bytes: int  # of the features of these
    tokens_bytes: int  # of what methods take in place of features
    predictions_bytes: int  # that cells leave in ``runs/``
    encode_flops: float  # of encoding them
    # Libraries, weights that a worker keeps, the features of a fit and of a test set; a batch of
    # images, what is classified at once or what a step of training keeps, whichever is most.
    memory_bytes: int
    # Of each process that decodes images: its own, and the pieces that it decodes and has ready.
    decoder_bytes: int
    unknown: tuple[str, ...]  # backbones whose size is not known before they are loaded


def count_costs(matrix: Matrix) -> Costs:
    """Counts images, bytes and operations from cards alone; no image or weight has to be here."""
    suite = matrix.suite
    names = {name for task in matrix.tasks for name in (task, *matrix.tests(task))}
    cards = {name: task_cards.read(name) for name in names}
    tests = {
        task: [cards[name].counts.get("test", 0) for name in matrix.tests(task)]
        for task in matrix.tasks
    }
    tested = sum(map(sum, tests.values()))
    drawn, largest = _count_drawn(matrix, matrix.choices)
    sizes = {name: measure_model(name) for name in suite_backbones(suite)}
    encoded = dict.fromkeys(sizes, tested)
    for name in fit_backbones(suite):
        encoded[name] += drawn
    known = {name: size for name, size in sizes.items() if size is not None}
    weights = sorted((size.parameters * FLOAT for size in known.values()), reverse=True)
    batch = max((size.batch_bytes for size in known.values()), default=0)
    side = max((size.image_side for size in known.values()), default=0)
    widest = max((size.embed_dim for size in known.values()), default=0) * FLOAT
    most = max((max(counts, default=0) for counts in tests.values()), default=0)
    copied = [place for place in matrix.places if place.choice.transfer == COPIED]
    fits = Counter((place.choice, place.task, place.shots) for place in copied)
    return Costs(
        steps=sum(n * count_steps(one, cards[task], k) for (one, task, k), n in fits.items()),
        images=sum(encoded.values()),
        features_bytes=sum(encoded[n] * size.embed_dim * FLOAT for n, size in known.items()),
        encode_flops=sum(encoded[n] * size.image_flops for n, size in known.items()),
        tokens_bytes=_count_tokens(matrix, tested, known),
        predictions_bytes=sum(
            len(place.backbones) * sum(tests[place.task]) * PREDICTION for place in matrix.places
        ),
        memory_bytes=LIBRARIES
        + sum(weights[:BACKBONES_AT_HAND])
        + max(
            batch,
            _count_classified(matrix, cards, tests, widest),
            _count_training(matrix, cards, known),
        )
        + (largest + most) * widest,
        decoder_bytes=DECODER + (2 + AHEAD) * PIECE * 3 * side**2 * FLOAT,
        unknown=tuple(name for name, size in sizes.items() if size is None),
    )


def _count_drawn(matrix: Matrix, choices: Sequence[MethodChoice]) -> tuple[int, int]:
    """Encodings of training and validation images on a source, and those of the largest fit.

    Training images are seen under every view and plain. A draw that is a large part of its split
    has the whole split encoded, once for all seeds.
    """
    drawn = largest = 0
    for card in map(task_cards.read, matrix.tasks):
        classes, images = len(card.classes), card.counts.get("train", 0)
        for shots in matrix.shots:
            train = min(classes * shots, images)
            views = [{View()}, *_views(choices, card, shots, train)]
            drawn += _encoded(matrix, train, images) * len(set.union(*views))
            largest = max(largest, train * max(map(len, views)))
            trainings = (choice.settings[card.name].training for choice in choices)
            for most in {training.val_shots for training in trainings}:
                split = card.counts.get("val", train)
                drawn += _encoded(matrix, min(classes * min(shots, most), split), split)
    return drawn, largest


def _encoded(matrix: Matrix, drawn: int, split: int) -> int:
    return split if drawn >= WHOLE * split else len(matrix.seeds) * drawn


def _count_tokens(matrix: Matrix, tested: int, sizes: Mapping[str, ModelSize]) -> int:
    """Bytes of all that methods take in place of features, each kind once."""
    wanted: dict[tuple[str, ImageInput], list[MethodChoice]] = {}
    for name, size in sizes.items():
        tower = SimpleNamespace(depth=size.image_blocks)
        text = SimpleNamespace(depth=size.text_blocks)
        sketch: Any = SimpleNamespace(name=name, image=tower, text=text)
        for choice in matrix.choices:
            taken = choice.build(matrix.tasks[0]).image_input(sketch)
            if taken != FEATURES:
                wanted.setdefault((name, taken), []).append(choice)
    fitted, total = fit_backbones(matrix.suite), 0
    for (name, taken), choices in wanted.items():
        images = tested + (_count_drawn(matrix, choices)[0] if name in fitted else 0)
        total += images * sizes[name].input_bytes(taken)
    return total


def _count_classified(
    matrix: Matrix, cards: Mapping[str, TaskCard], tests: Mapping[str, list[int]], widest: int
) -> int:
    """Bytes of the largest batch of images that is classified at once."""
    most = 0
    for choice in matrix.choices:
        for task in matrix.tasks:
            texts = 2 * choice.method.card.prompts_per_image * widest  # and normalised
            each = len(cards[task].classes) * max(LOGITS * FLOAT, texts)
            most = max(most, min(MOST, each * max(tests[task], default=0)))
    return most


def _count_training(
    matrix: Matrix, cards: Mapping[str, TaskCard], sizes: Mapping[str, ModelSize]
) -> int:
    """Bytes that a step of training through a tower adds, for its backward pass, at most."""
    sources = [sizes[name] for name in fit_backbones(matrix.suite) if name in sizes]
    most = 0
    for choice in matrix.choices:
        for task in matrix.tasks:
            method = choice.build(task)
            if not isinstance(method, TrainedMethod):
                continue
            places, images = set(method.card.places), method.config.recipe.batch_size
            prompts = len(cards[task].classes) * (images if method.card.prompts_per_image else 1)
            for size in sources:
                text = int(prompts * NAME_TOKENS * size.text_numbers * KEPT * FLOAT)
                text = min(text, current_budget() or text) if places & TEXT_PLACES else 0
                inner = images * size.image_tokens * size.image_width * size.image_blocks
                inner = inner * KEPT * FLOAT if "image-layers" in places else 0
                most = max(most, AUTOGRAD + text + inner if text or inner else 0)
    return most


def _views(
    choices: Sequence[MethodChoice], card: TaskCard, shots: int, images: int
) -> Iterator[set[View]]:
    """The views of a task's training images that each method learns from."""
    for choice in choices:
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
