"""What cells cost before they are run: counted from cards and model sizes, or measured before.

Work is counted in floating-point operations and in steps, and divided by the rates of a table.
Cells of a method that has finished cells are scaled to what those took.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import NamedTuple

from compatbench.backbone import FEATURES, ImageInput
from compatbench.backbone.parts.memory import ON_CPU, current_budget
from compatbench.data.cards import COPIED, TaskCard
from compatbench.data.encoding import AHEAD, PIECE
from compatbench.data.feature_cache import WHOLE
from compatbench.data.images.views import View
from compatbench.engine.cell import Cell
from compatbench.engine.matrix import Matrix, MethodChoice
from compatbench.engine.missing import fit_backbones, suite_backbones
from compatbench.engine.model_size import FLOAT, measure_model
from compatbench.engine.predict import MOST
from compatbench.engine.step_memory import (
    CARDS,
    NAME_TOKENS,
    TEXT_PLACES,
    StepMemory,
    count_step,
    image_input,
)
from compatbench.method.registry import find_transfer
from compatbench.method.trained import TrainedMethod

# Operations a second of float32, by kind of device: of one core, and of a card.
RATES = {"cpu": 5e10, "cuda": 2e13, "mps": 2e12}
# Seconds beside the products, on one core: of a training step, of one block of a tower in it, of a
# closed-form fit, and of a record.
STEP_SECONDS, BLOCK_SECONDS, CLOSED_FORM_SECONDS, RECORD_SECONDS = 6e-4, 1e-3, 0.3, 0.02
# Bytes: of a worker's libraries, of a process that decodes beside its images, and of an answer.
LIBRARIES, DECODER, PREDICTION = 550 * 2**20, 280 * 2**20, 8
PLACE_HEADER = 300  # of predictions, by backbone and test set
BACKBONES_AT_HAND = 4  # that a worker keeps
BATCH = 128  # images that are encoded together
WIDEST = 6  # the hidden layer of an MLP, four times as wide, beside what enters and leaves it
LOGITS = 3  # copies of all logits that are in use at once
HIDDEN = ImageInput("hidden")


@dataclass(frozen=True)
class Costs:
    """What a matrix costs, by what is counted."""

    steps: int  # of optimisers, in all fits
    images: int  # encodings of an image by a backbone under a view; none may be cached
    encode_flops: float  # of encoding them
    features_bytes: int
    tokens_bytes: int  # of what methods take in place of features
    predictions_bytes: int
    # Libraries, weights, the features of a fit and of a test set; a batch of images, what is
    # classified at once or what a step of training keeps, whichever is most.
    memory_bytes: int
    step: StepMemory  # that takes most, where each tower's activations keep to the room
    room_bytes: int
    beyond: dict[int, list[str]]  # methods that cards of so many gigabytes do not hold
    decoder_bytes: int  # of each process that decodes images, with the pieces that it has ready
    unknown: tuple[str, ...]  # backbones whose size is not known before they are loaded


class FitSize(NamedTuple):
    """Images that a method learns from, its steps if it is trained in any, and views of images."""

    images: int
    steps: int
    views: list[View]


def plan_fit(choice: MethodChoice, card: TaskCard, shots: int) -> FitSize:
    """The size of a fit, from the cards of its method and task."""
    method = choice.build(card.name)
    images = split = card.counts.get("train", 0)
    if "unlabelled" not in method.card.needs:
        images = min(len(card.classes) * shots, split)
    # Recipes count in shots, where all images may be asked for.
    shots, steps = min(shots, split // max(len(card.classes), 1)), 0
    if isinstance(method, TrainedMethod):
        steps = math.prod(method.plan_steps(shots, images))
    training = choice.settings[card.name].training
    return FitSize(images, steps, training.list_views(method.count_epochs(shots, images)))


def count_costs(matrix: Matrix) -> Costs:
    """Counts images, bytes and operations from cards alone; no image or weight has to be here."""
    sizes = {name: measure_model(name) for name in suite_backbones(matrix.suite)}
    known = {name: size for name, size in sizes.items() if size is not None}
    fitted = {*fit_backbones(matrix.suite)}
    tests = {
        task: [matrix.cards[name].counts.get("test", 0) for name in matrix.tests[task]]
        for task in matrix.tasks
    }
    tested, most = sum(map(sum, tests.values())), max(map(max, tests.values()))
    drawn, largest = _count_drawn(matrix, matrix.choices)
    encoded = {name: tested + drawn * (name in fitted) for name in sizes}
    tokens = 0
    for name, size in known.items():
        takers: dict[ImageInput, list[MethodChoice]] = defaultdict(list)
        for choice in matrix.choices:
            takers[image_input(choice, matrix.tasks[0], name, size)].append(choice)
        for wanted in takers.keys() - {FEATURES}:
            images = tested + (name in fitted) * _count_drawn(matrix, takers[wanted])[0]
            tokens += images * size.input_bytes(wanted)
    sources = sorted(fitted & known.keys())
    steps = [
        count_step(choice, matrix.cards[task], name, known[name])
        for choice, task, name in product(matrix.choices, matrix.tasks, sources)
    ]
    room = current_budget() or ON_CPU
    step = max(steps, key=lambda step: step.count_bytes(room), default=StepMemory())
    classes = max(len(matrix.cards[task].classes) for task in matrix.tasks)
    at_once = [step.count_bytes(room), min(MOST, most * classes * LOGITS * FLOAT)]
    at_once += [BATCH * size.input_bytes(HIDDEN) * WIDEST for size in known.values()]
    weights = sorted((size.parameters * FLOAT for size in known.values()), reverse=True)
    features = (largest + most) * max((size.embed_dim for size in known.values()), default=0)
    held = LIBRARIES + sum(weights[:BACKBONES_AT_HAND]) + features * FLOAT
    side = max((size.image_side for size in known.values()), default=0)
    work, least = count_work(matrix), [(step.method, held + step.count_bytes(0)) for step in steps]
    return Costs(
        steps=sum(work(cell).steps for cell in matrix.places),
        images=sum(encoded.values()),
        encode_flops=sum(encoded[n] * size.image_flops for n, size in known.items()),
        features_bytes=sum(encoded[n] * size.embed_dim * FLOAT for n, size in known.items()),
        tokens_bytes=tokens,
        predictions_bytes=sum(
            len(cell.backbones) * (PREDICTION * images + PLACE_HEADER)
            for cell in matrix.places
            for images in tests[cell.task]
        ),
        memory_bytes=held + max(at_once),
        step=step,
        room_bytes=room,
        beyond={
            card: list(dict.fromkeys(name for name, takes in least if takes > card * 10**9))
            for card in CARDS
        },
        decoder_bytes=DECODER + (2 + AHEAD) * PIECE * 3 * side**2 * FLOAT,
        unknown=tuple(name for name in sizes if name not in known),
    )


def _count_drawn(matrix: Matrix, choices: Sequence[MethodChoice]) -> tuple[int, int]:
    """Encodings of training and validation images on a source, and those of the largest fit.

    Training images are seen under every view and plain. A draw that is a large part of its split
    has the whole split encoded, once for all seeds.
    """
    drawn = largest = 0
    learners = [choice for choice in choices if choice.method.card.learns]
    for task, shots in product(matrix.tasks, matrix.shots):
        card = matrix.cards[task]
        train = min(len(card.classes) * shots, split := card.counts.get("train", 0))
        views = [plan_fit(choice, card, shots).views for choice in learners]
        largest = max(largest, train * max(map(len, views), default=1))
        parts = [(train, split)] * len({View()}.union(*views))
        whole = card.counts.get("val", train)
        for most in {choice.settings[task].training.val_shots for choice in choices}:
            parts.append((min(len(card.classes) * min(shots, most), whole), whole))
        for images, whole in parts:
            drawn += whole if images >= WHOLE * whole else images * len(matrix.seeds)
    return drawn, largest


def estimate_seconds(
    matrix: Matrix, finished: Iterable[tuple[Cell, float]] = ()
) -> Callable[[Cell], float]:
    """What gives the seconds that a cell of a matrix takes on a core; above 0.

    Its fit, and its evaluation everywhere, image features aside. They are as counted, but for
    methods with ``finished`` cells, whose counts are scaled to the seconds that those took.
    """
    count_cell, rate = count_work(matrix), RATES["cpu"]

    def count(cell: Cell) -> float:
        work = count_cell(cell)
        step = STEP_SECONDS + work.step_flops / rate + work.step_blocks * BLOCK_SECONDS
        fit = work.steps * step + work.closed_forms * CLOSED_FORM_SECONDS
        return max(fit + work.test_flops / rate + work.records * RECORD_SECONDS, 1e-3)

    sums = defaultdict[str, list[float]](lambda: [0.0, 0.0])
    for cell, seconds in finished:
        sums[cell.name][0] += seconds
        sums[cell.name][1] += count(cell)
    paces = {name: spent / counted for name, (spent, counted) in sums.items()}
    return lambda cell: max(paces.get(cell.name, 1.0) * count(cell), 1e-3)


@dataclass(frozen=True)
class Work:
    """What is counted of a cell; operations are of floating-point numbers.

    Attributes:
        step_flops: of a training step; ``step_blocks`` are the blocks that it runs through.
        depth: of the towers that a step runs through, on average.
        test_flops: of all answers, beside products with the class weights.
    """

    records: int
    test_flops: float
    steps: int = 0
    step_flops: float = 0.0
    step_blocks: float = 0.0
    depth: float = 0.0
    closed_forms: int = 0  # fits without steps


def count_work(matrix: Matrix) -> Callable[[Cell], Work]:
    """What counts the work of a cell of a matrix: its fits, and its evaluation everywhere."""
    count = cache(partial(_count_work, matrix))  # the same of all seeds
    return lambda cell: count(matrix.choice(cell), cell.task, cell.shots, cell.backbones)


def _count_work(
    matrix: Matrix, choice: MethodChoice, task: str, shots: int, backbones: tuple[str, ...]
) -> Work:
    method, tests = choice.method.card, matrix.tests[task]
    classes = len((card := matrix.cards[task]).classes)
    images = sum(matrix.cards[name].counts.get("test", 0) for name in tests)
    in_image, flops = "image-layers" in method.places, 0.0
    known = [size for size in map(measure_model, backbones) if size is not None]
    for size in known:
        # Of one test image, beside a product with the class weights.
        texts = 2.0 * size.text_weights * classes * NAME_TOKENS * method.prompts_per_image
        flops += (texts + in_image * size.image_flops) * images
    tested = len(known) * len(tests), flops
    models, shots = _list_fits(choice, shots, backbones)
    fit, fitted = plan_fit(choice, card, shots), choice.build(task)
    if not isinstance(fitted, TrainedMethod):
        return Work(*tested, closed_forms=len(models))
    flops, blocks, depths = 0.0, 0.0, []
    in_text = not TEXT_PLACES.isdisjoint(method.places)
    batch = min(fitted.config.recipe.batch_size, fit.images)
    passes = 3.0 if "image" in fitted.trained_towers else 2.0
    sizes = [size for size in map(measure_model, models) if size is not None]
    for size in sizes:
        if in_text:
            # Forward and backward to the inputs: the weights are frozen.
            flops += method.step_cost * 4.0 * size.text_weights * classes * NAME_TOKENS
            blocks += method.step_cost * size.text_blocks
            depths.append(size.text_blocks)
        if in_image:
            flops += passes * size.image_flops * batch
            blocks += size.image_blocks
            depths.append(size.image_blocks)
    number, depth = max(len(sizes), 1), sum(depths) / max(len(depths), 1)
    return Work(*tested, len(models) * fit.steps, flops / number, blocks / number, depth)


def _list_fits(
    choice: MethodChoice, shots: int, backbones: Sequence[str]
) -> tuple[Sequence[str], int]:
    """The models that a cell fits its method on, and with how many shots.

    A transfer that takes labels is counted as a fit on every target, which is the most it does.
    """
    if not choice.method.card.learns:
        return (), shots
    if choice.transfer == COPIED:
        return backbones[:1], shots
    transfer = find_transfer(choice.transfer)
    labelled = "labels" in transfer.card.access
    return (backbones[1:], transfer.config.shots) if labelled else ((), shots)
