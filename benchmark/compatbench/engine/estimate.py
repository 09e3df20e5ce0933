"""What a suite costs before it is run: counted from cards and model sizes, or measured before.

Nothing is guessed: image encoding and the training of prompts are counted in floating-point
operations and divided by the rate of a matrix product, measured here and now. That gives the
order of magnitude: a real tower does not reach that rate, and prompts that share a prefix need
less than is counted. What was measured by earlier cells is taken from their records; the rest is
said to be unknown.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from compatbench.backbone.build import build_architecture
from compatbench.backbone.load import read_backbone
from compatbench.data.cards import (
    SuiteCard,
    TaskCard,
    select_names,
    suite_tasks,
    suite_variants,
    task_cards,
)
from compatbench.data.draws import MOST_VALIDATION_SHOTS
from compatbench.engine.aligned_cells import plain_name
from compatbench.engine.configs import resolve_config
from compatbench.engine.missing import fit_backbones, suite_backbones
from compatbench.errors import CompatbenchError
from compatbench.method.registry import MethodRegistry
from compatbench.method.trained import LEAST_EPOCHS, TrainedMethod

FLOAT = 4  # bytes
# What a class name, start and end of text take in CLIP's tokens, rounded up from the mean.
NAME_TOKENS = 6
# A worker keeps so many backbones.
BACKBONES_AT_HAND = 4
BATCH = 128  # images that are encoded together
WIDEST = 6  # the hidden layer of an MLP, four times as wide, beside what enters and leaves it


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a backbone's architecture.

    Attributes:
        image_flops: floating-point operations of one image.
        text_weights: parameters of the text tower's blocks.
        batch_bytes: the widest activations of one batch of images.
    """

    parameters: int
    embed_dim: int
    image_flops: float
    text_weights: int
    batch_bytes: int


@dataclass(frozen=True)
class Costs:
    """What a suite costs, by what is counted.

    Attributes:
        images: encodings of an image by a backbone under a view; none may be cached.
        features_bytes: of the features of these.
        encode_flops: of encoding them.
        fit_flops: of the trained methods that run the text tower at every step.
        counted_fits: cells in ``fit_flops``.
        memory_bytes: weights that a worker keeps, and one batch of images.
        unknown: backbones whose size is not known before they are loaded.
    """

    images: int
    features_bytes: int
    encode_flops: float
    fit_flops: float
    counted_fits: int
    memory_bytes: int
    unknown: tuple[str, ...]


def count_costs(
    suite: SuiteCard,
    registry: MethodRegistry,
    methods: Iterable[str],
    tasks: str | Sequence[str] = "all",
    seeds: Sequence[int] | None = None,
    shots: Sequence[int] | None = None,
) -> Costs:
    """Counts what a suite costs from its cards alone; no image or weight has to be here.

    Raises:
        CompatbenchError: an unknown name, or a broken card.
    """
    chosen = select_names(tasks, suite_tasks(suite), "task in this suite")
    cards = {name: task_cards.read(name) for name in task_cards.names()}
    draws = [(count, seed) for count in shots or suite.shots for seed in seeds or suite.seeds]
    sizes = {name: measure_model(name) for name in suite_backbones(suite)}
    sources = set(fit_backbones(suite))
    images: Counter[str] = Counter()
    for name in sizes:
        for task in chosen:
            tests = (task, *suite_variants(suite, task))
            images[name] += sum(cards[test].counts.get("test", 0) for test in tests)
            if name in sources:
                images[name] += sum(
                    _drawn(cards[task], count, suite.training.views) for count, _ in draws
                )
    known = {name: size for name, size in sizes.items() if size is not None}
    fit_flops, fits = 0.0, 0
    for method in methods:
        for task in chosen:
            for source in sources & set(known):
                for count, _ in draws:
                    flops = _fit_flops(
                        suite, registry, method, cards[task], count, known[source].text_weights
                    )
                    fit_flops, fits = fit_flops + flops, fits + bool(flops)
    weights = sorted((size.parameters * FLOAT for size in known.values()), reverse=True)
    return Costs(
        images=images.total(),
        features_bytes=sum(images[n] * size.embed_dim * FLOAT for n, size in known.items()),
        encode_flops=sum(images[name] * size.image_flops for name, size in known.items()),
        fit_flops=fit_flops,
        counted_fits=fits,
        memory_bytes=sum(weights[:BACKBONES_AT_HAND])
        + max((size.batch_bytes for size in known.values()), default=0),
        unknown=tuple(name for name, size in sizes.items() if size is None),
    )


def _drawn(card: TaskCard, shots: int, views: int) -> int:
    """Images of one draw that are encoded: training under every view and plain, validation."""
    classes = len(card.classes)
    train = min(classes * shots, card.counts.get("train", 0))
    val = min(classes * min(shots, MOST_VALIDATION_SHOTS), card.counts.get("val", train))
    return train * (1 + (views if views > 1 else 0)) + val


def _fit_flops(
    suite: SuiteCard,
    registry: MethodRegistry,
    method: str,
    card: TaskCard,
    shots: int,
    text_weights: int,
) -> float:
    """Operations of a fit whose every step runs all classes through the text tower; else 0."""
    method = plain_name(method)
    cls = registry.get(suite.base_method(method))
    if not issubclass(cls, TrainedMethod) or not set(cls.card.places) & {
        "text-input",
        "text-layers",
    }:
        return 0.0
    config: Any = cls.Config.model_validate(resolve_config(cls, suite, method))
    classes = len(card.classes)
    train = min(classes * shots, card.counts.get("train", 0))
    per_epoch = max(train // config.recipe.batch_size, 1)
    epochs = config.recipe.epochs_for(min(shots, train // max(classes, 1)))
    steps = epochs * per_epoch
    if config.max_steps is not None:
        per_epoch = min(per_epoch, -(-config.max_steps // min(epochs, LEAST_EPOCHS)))
        steps = min(epochs, config.max_steps // per_epoch) * per_epoch
    tokens = getattr(config, "context_length", 4) + NAME_TOKENS
    # Two operations per weight and token forward, twice as many backward.
    return 6.0 * steps * text_weights * classes * tokens


@lru_cache(maxsize=64)
def measure_model(name: str) -> ModelSize | None:
    """The sizes of a backbone, from its architecture alone; None if that is not open_clip's.

    Its weights need not be here.
    """
    try:
        card = read_backbone(name)
        if card.provider == "hf":
            return None
        model = build_architecture(card, device="meta")
    except CompatbenchError:
        return None  # what is wrong with it is told elsewhere
    visual: Any = model.visual
    text: Any = model.text if isinstance(getattr(model, "text", None), nn.Module) else model
    patches = next((m for m in visual.modules() if isinstance(m, nn.Conv2d)), None)
    size = visual.preprocess_cfg["size"]
    side = size if isinstance(size, int) else min(size)
    if patches is None:
        return None
    tokens = (side // patches.kernel_size[0]) ** 2 + 1
    weights = sum(parameter.numel() for parameter in visual.parameters())
    blocks = sum(parameter.numel() for parameter in text.transformer.parameters())
    widest = BATCH * tokens * patches.out_channels * WIDEST * FLOAT
    return ModelSize(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        embed_dim=_embed_dim(text, patches.out_channels),
        image_flops=2.0 * weights * tokens,
        text_weights=blocks,
        batch_bytes=widest,
    )


def _embed_dim(text: Any, default: int) -> int:
    projection = getattr(text, "text_projection", None)
    if isinstance(projection, nn.Linear):
        return projection.out_features
    return default if projection is None else projection.shape[1]


def measure_rate(device: str, size: int = 1024, seconds: float = 0.3) -> float:
    """Floating-point operations a second of float32 matrix products on a device, now."""
    a = torch.randn(size, size, device=device)
    wait = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    torch.mm(a, a)
    wait()
    start, products = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        torch.mm(a, a)
        wait()
        products += 1
    return 2.0 * size**3 * products / spent
