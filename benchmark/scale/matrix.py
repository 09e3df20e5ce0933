"""The full matrix: its methods, and what is counted of each cell without running any."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from compatbench.data.cards import (
    SuiteCard,
    TaskCard,
    suite_cards,
    suite_tasks,
    suite_variants,
    task_cards,
)
from compatbench.data.cards.shots import MOST_VALIDATION_SHOTS
from compatbench.engine.costs import NAME_TOKENS
from compatbench.engine.method_settings import resolve_settings
from compatbench.engine.model_size import FLOAT, ModelSize, measure_model
from compatbench.errors import CompatbenchError
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import TrainedMethod

SUITE = "full"

# Thirty that learn. Of the others, VPT-shallow, IVLP and APE are less of VPT-deep, MaPLe and APE-T.
METHODS = (
    *("ape_t", "bitfit", "clap", "clip_adapter", "clip_lora", "cocoop", "contcoop", "coop"),
    *("coprompt", "cross_modal", "dept", "gda", "graph_adapter", "kgcoop", "lfa", "linear_probe"),
    *("lp_plus_plus", "maple", "plot", "proda", "prograd", "promptsrc", "simpleshot", "taskres"),
    *("tcp", "tip_adapter", "tip_adapter_f", "vpt_deep", "wise_ft", "zs_lp"),
)
# Its prompts depend on the image, so that every image goes with all classes through the text tower.
PROMPTS_BY_IMAGE = ("cocoop",)


@dataclass(frozen=True)
class Work:
    """What is counted of a cell.

    Attributes:
        fit, evaluate: floating-point operations. All are counted alike for the mini suite and for
            real models; only their ratios are used.
        steps: of the optimiser.
        train, val: images of the draw.
        tokens: whether the image tower runs, on stored tokens.
    """

    fit: float
    evaluate: float
    steps: int
    train: int
    val: int
    tokens: bool


@dataclass(frozen=True)
class Kind:
    """A method, its settings in a suite, and which towers run at every step."""

    name: str
    config: Any
    trained: type[TrainedMethod] | None
    text: bool
    image: bool


def read_kind(suite: SuiteCard, method: str) -> Kind:
    """What decides the work of a method's cells."""
    cls = builtin_methods().get(suite.base_method(method))
    config = cls.Config.model_validate(resolve_settings(cls, suite, method).config)
    places = set(cls.card.places)
    return Kind(
        method,
        config,
        trained=cls if issubclass(cls, TrainedMethod) else None,
        text=bool(places & {"text-input", "text-layers"}),
        image="image-layers" in places,
    )


def count_work(
    kind: Kind, task: TaskCard, shots: int, sizes: list[ModelSize], tests: list[int]
) -> Work:
    """Counts a cell's work.

    Args:
        sizes: of the source, then of every target.
        tests: images of every test set.
    """
    classes = len(task.classes)
    train = min(classes * shots, task.counts["train"])
    val = min(classes * min(shots, MOST_VALIDATION_SHOTS), task.counts.get("val", train))
    steps, batch = _count_steps(kind, train, shots)
    tokens = getattr(kind.config, "context_length", 4) + NAME_TOKENS
    source = sizes[0]
    # Two operations per weight forward, twice as many backward.
    prompts = 6.0 * source.text_weights * classes * tokens
    head = 6.0 * batch * classes * source.embed_dim
    by_image = kind.name in PROMPTS_BY_IMAGE
    per_step = head + kind.text * prompts + kind.image * 3.0 * batch * source.image_flops
    evaluate = 0.0
    for size in sizes:
        texts = 2.0 * size.text_weights * classes * tokens
        evaluate += (kind.text and not by_image) * texts
        evaluate += sum(tests) * (
            2.0 * classes * size.embed_dim + kind.image * size.image_flops + by_image * texts
        )
    return Work(steps * per_step, evaluate, steps, train, val, kind.image)


def _count_steps(kind: Kind, train: int, shots: int) -> tuple[int, int]:
    """Steps of a fit and images of each; one step over all images where nothing is trained."""
    if kind.trained is None:
        return 1, train
    batch = min(kind.config.recipe.batch_size, train)
    return math.prod(kind.trained(kind.config).plan_steps(shots, train)), batch


@dataclass(frozen=True)
class Draw:
    """A cell of the matrix, before its cost is known."""

    kind: Kind
    source: str
    task: str
    shots: int
    seed: int
    backbones: tuple[str, ...]
    test_sets: tuple[str, ...]
    work: Work


def matrix() -> Iterator[Draw]:
    """Every cell of the full matrix, in the order of a plan."""
    suite = suite_cards.read(SUITE)
    kinds = [read_kind(suite, name) for name in METHODS]
    paths: dict[str, list[str]] = {}
    for source, *targets in suite.upgrades:
        paths.setdefault(source, [source]).extend(targets)
    for task in suite_tasks(suite):
        card = task_cards.read(task)
        test_sets = (task, *suite_variants(suite, task))
        tests = [task_cards.read(name).counts["test"] for name in test_sets]
        for source, backbones in paths.items():
            towers = [size_of(name) for name in backbones]
            for shots, seed, kind in product(suite.shots, suite.seeds, kinds):
                work = count_work(kind, card, shots, towers, tests)
                yield Draw(kind, source, task, shots, seed, tuple(backbones), test_sets, work)


def size_of(name: str) -> ModelSize:
    """The sizes of a backbone."""
    if (size := measure_model(name)) is None:
        raise CompatbenchError(f"the size of backbone '{name}' is not known")
    return size


def token_bytes(size: ModelSize) -> int:
    """Bytes of one image's tokens, as they enter the image tower's first block."""
    return size.image_tokens * size.image_width * FLOAT
