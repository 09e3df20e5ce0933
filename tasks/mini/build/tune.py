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
from pathlib import Path

import torch

from compatbench.backbone import Backbone, load_backbone
from compatbench.cachefiles import default_cache_folder
from compatbench.cards import SuiteCard, suite_cards
from compatbench.features import FeatureCache
from compatbench.files import sha256_bytes
from compatbench.method import FEATURES, FeatureSet, FewShotData, Method
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import TrainedMethod
from compatbench.run.configs import resolve_config
from compatbench.task import Task, load_task
from compatbench.task.drawings import Drawing
from compatbench.task.sampling import draw_few_shot
from compatbench.views import View

FACTORS = (1, 3, 10, 30)
SEED = 101
#: A small, a middling and a large task.
TASKS = ("mini-food", "mini-travel", "mini-weather")


def tune(work: Path, methods: str = "all", factors: Sequence[float] = FACTORS) -> None:
    """Prints the held-out accuracy, in percent, of every factor for every trained method."""
    suite, registry = suite_cards.read("mini"), builtin_methods()
    source = load_backbone(suite.upgrades[0][0])
    names = [n for n in registry.select(methods) if can_be_tuned(registry.get(n), source)]
    cache = FeatureCache(default_cache_folder())
    torch.set_num_threads(1)
    data = [part_by_set(load_task(name), suite, source, cache) for name in TASKS]
    zero_shot = [_accuracy(source.zero_shot(d.labels) @ x.plain.T, x.targets) for d, x in data]
    print(f"zero-shot {100 * sum(zero_shot) / len(zero_shot):.1f}")
    print("method".ljust(16), *(f"x {factor:g}".rjust(8) for factor in factors), "   recipe")
    for name in names:
        cls = registry.get(name)
        published = cls.Config().recipe.lr  # type: ignore[attr-defined]
        means = []
        for factor in factors:
            config = resolve_config(cls, suite)
            config["recipe"] = config["recipe"] | {"lr": published * factor}
            method = cls(cls.Config.model_validate(config))
            found = [held_out_accuracy(method, source, *one) for one in data]
            means.append(100 * sum(found) / len(found))
        print(name.ljust(16), *(f"{mean:8.1f}" for mean in means), f"   {published:g}", flush=True)


def can_be_tuned(cls: type[Method], source: Backbone) -> bool:
    """Whether a method is trained, and on the features of images alone."""
    return issubclass(cls, TrainedMethod) and cls().image_input(source) == FEATURES


def part_by_set(
    task: Task, suite: SuiteCard, source: Backbone, cache: FeatureCache
) -> tuple[FewShotData, FeatureSet]:
    """Few-shot data from half of a task's training sets, and all drawings of the other half."""
    pool: list[Drawing] = [*task.split("train"), *task.split("val")]  # type: ignore[list-item]
    halves: tuple[list[Drawing], list[Drawing]] = ([], [])
    for drawing in pool:
        halves[int(sha256_bytes(family(drawing.sheet).encode())[0], 16) % 2].append(drawing)
    train, val = draw_few_shot(halves[0], [], suite.shots[0], SEED)
    training = suite.training
    views = [View(n, training.crop_scale, training.flip) for n in range(1, training.views + 1)]

    def features(drawings: list[Drawing], chosen: list[View]) -> FeatureSet:
        targets = torch.tensor([drawing.label for drawing in drawings], dtype=torch.long)
        plain = cache.features(source, task, drawings)
        stacked = [cache.features(source, task, drawings, view) for view in chosen]
        return FeatureSet(plain, torch.stack(stacked or [plain]), targets)

    data = FewShotData(task.labels, suite.shots[0], features(train, views), features(val, []))
    return data, features(halves[1], [])


def family(icon_set: str) -> str:
    """Sets of one maker, which share silhouettes: ``fluent-emoji`` and ``fluent-emoji-flat``."""
    return icon_set.split("-")[0].rstrip("s")


def held_out_accuracy(
    method: Method, source: Backbone, data: FewShotData, held_out: FeatureSet
) -> float:
    """Share of the held-out drawings that the fitted module classifies right."""
    module = method.fit(source, data, torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        logits = method.attach(module, source, data.labels)(held_out.plain)
    return _accuracy(logits.T, held_out.targets)


def _accuracy(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Accuracy of logits ``[classes, images]``."""
    return float((logits.argmax(0) == targets).float().mean())
