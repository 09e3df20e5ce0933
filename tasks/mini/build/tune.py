"""Step ``tune``: which learning rates the mini suite asks for, and on what grounds.

The published rates were found for CLIP, whose logit scale is 100 and whose recipes
allow more steps than the suite. So each trained method is given its published rate
times a few factors. The suite's test images come from other icon sets than its
training images, so the factors are compared in the same way, without any test image:
the training pool is parted by families of icon sets, the shots come from one half, and
accuracy is taken on the other. Only the source model takes part, and the seed is not
the suite's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from compatbench.backbone import FEATURES, Backbone, ImageInput, load_backbone
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.data.draws import draw_few_shot
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.images import View
from compatbench.data.sources.drawings import Drawing
from compatbench.data.task import Task, load_task
from compatbench.engine.matrix import resolve_settings
from compatbench.files.hashes import sha256_bytes
from compatbench.method import FeatureSet, FewShotData, Method, Rows
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import TrainedMethod

FACTORS = (1, 3, 10, 30)
SEED = 101
#: A small, a middling and a large task.
TASKS = ("mini-food", "mini-travel", "mini-weather")


def tune(work: Path, methods: str = "all", factors: Sequence[float] = FACTORS) -> None:
    """Prints the held-out accuracy, in percent, of every factor for every trained method."""
    suite, registry = suite_cards.read("mini"), builtin_methods()
    source = load_backbone(suite.upgrades[0][0])
    cache = FeatureCache(default_cache_folder())
    torch.set_num_threads(1)
    tasks = [load_task(name) for name in TASKS]
    parted = [part_by_set(task, suite, source, cache) for task in tasks]
    found = [_accuracy(source.zero_shot(p.data.labels) @ p.held_out.T, p.targets) for p in parted]
    print(f"zero-shot {100 * sum(found) / len(found):.1f}")
    print("method".ljust(16), *(f"x {factor:g}".rjust(8) for factor in factors), "   recipe")
    for name in registry.select(methods):
        cls = registry.get(name)
        if not issubclass(cls, TrainedMethod):
            continue
        published = cls.Config().recipe.lr
        config = resolve_settings(cls, suite).config
        means = []
        for factor in factors:
            config["recipe"] = config["recipe"] | {"lr": published * factor}
            method = cls(cls.Config.model_validate(config))
            wanted = method.image_input(source)
            parted = [part_by_set(task, suite, source, cache, wanted) for task in tasks]
            found = [held_out_accuracy(method, source, part) for part in parted]
            means.append(100 * sum(found) / len(found))
        print(name.ljust(16), *(f"{mean:8.1f}" for mean in means), f"   {published:g}", flush=True)


@dataclass(frozen=True)
class Parted:
    """A task's training pool, parted by families of icon sets.

    Attributes:
        data: the few-shot draw from one half.
        held_out: all drawings of the other half, as a method's classifier takes them.
        targets: their labels.
    """

    data: FewShotData
    held_out: Tensor
    targets: Tensor


def part_by_set(
    task: Task,
    suite: SuiteCard,
    source: Backbone,
    cache: FeatureCache,
    wanted: ImageInput = FEATURES,
) -> Parted:
    """Few-shot data from half of a task's training sets, and all drawings of the other half."""
    pool: list[Drawing] = [*task.split("train"), *task.split("val")]  # type: ignore[list-item]
    halves: tuple[list[Drawing], list[Drawing]] = ([], [])
    for drawing in pool:
        halves[int(sha256_bytes(family(drawing.sheet).encode())[0], 16) % 2].append(drawing)
    train, val = draw_few_shot(halves[0], [], suite.shots[0], SEED)
    training = suite.training
    views = training.list_views(epochs=1)

    def inputs(drawings: list[Drawing], view: View) -> Rows:
        if wanted == FEATURES:
            return cache.features(source, task, drawings, view)
        return cache.tokens(source, task, drawings, wanted, view)

    def features(drawings: list[Drawing], chosen: list[View]) -> FeatureSet:
        targets = torch.tensor([drawing.label for drawing in drawings], dtype=torch.long)
        plain = cache.features(source, task, drawings)
        stacked = [cache.features(source, task, drawings, view) for view in chosen]
        tokens = None if wanted == FEATURES else [inputs(drawings, view) for view in chosen]
        return FeatureSet(plain, torch.stack(stacked or [plain]), targets, tokens)

    data = FewShotData(task.labels, suite.shots[0], features(train, views), features(val, []))
    targets = torch.tensor([drawing.label for drawing in halves[1]], dtype=torch.long)
    held_out = inputs(halves[1], View())
    return Parted(data, held_out[torch.arange(len(held_out))], targets)


def family(icon_set: str) -> str:
    """Sets of one maker, which share silhouettes: ``fluent-emoji`` and ``fluent-emoji-flat``."""
    return icon_set.split("-")[0].rstrip("s")


def held_out_accuracy(method: Method, source: Backbone, part: Parted) -> float:
    """Share of the held-out drawings that the fitted module classifies right."""
    module = method.fit(source, part.data, torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        logits = method.attach(module, source, part.data.labels)(part.held_out)
    return _accuracy(logits.T, part.targets)


def _accuracy(logits: Tensor, targets: Tensor) -> float:
    """Accuracy of logits ``[classes, images]``."""
    return float((logits.argmax(0) == targets).float().mean())
