"""Step ``tune``: which learning rates the mini suite asks for, and on what grounds.

The published rates were found for CLIP, whose logit scale is 100 and whose token
embeddings are small; the miniature models have other scales, and the suite allows
fewer steps. So each trained method is given its published rate times a few factors,
and the factor that classifies the few-shot *validation* images of the *source* best,
on the mean over tasks, stands in ``suites/mini.yaml``. No test image and no target
model takes part, and the seeds are not the suite's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from compatbench.backbone import load_backbone
from compatbench.cachefiles import default_cache_folder
from compatbench.cards import suite_cards
from compatbench.cards.suites import suite_tasks
from compatbench.features import FeatureCache
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import TrainedMethod
from compatbench.run.fit import Worker
from compatbench.run.plan import plan_cells, resolve_config
from compatbench.run.store import RunStore

FACTORS = (1, 3, 10, 30)
SEEDS = (101,)


def tune(work: Path, methods: str = "all", factors: Sequence[float] = FACTORS) -> None:
    """Prints the validation accuracy, in percent, of every factor for every trained method."""
    suite = suite_cards.read("mini")
    registry = builtin_methods()
    names = [n for n in registry.select(methods) if issubclass(registry.get(n), TrainedMethod)]
    source = load_backbone(suite.upgrades[0][0])
    worker = Worker(RunStore(work / "tune"), FeatureCache(default_cache_folder()))
    torch.set_num_threads(1)
    tasks = suite_tasks(suite)
    print("method".ljust(16), *(f"x {factor:g}".rjust(8) for factor in factors), "   recipe")
    for name in names:
        cls = registry.get(name)
        published = cls.Config().recipe.lr  # type: ignore[attr-defined]
        means = []
        for factor in factors:
            config = resolve_config(cls, suite)
            config["recipe"] = config["recipe"] | {"lr": published * factor}
            method = cls(cls.Config.model_validate(config))
            accuracies = []
            for cell in plan_cells(suite, registry, [name], tasks, SEEDS):
                data = worker.few_shot_data(cell, source)
                rng = torch.Generator().manual_seed(cell.seed)
                module = method.fit(source, data, rng)
                with torch.no_grad():
                    logits = method.attach(module, source, data.labels)(data.val.plain)
                accuracies.append(float((logits.argmax(-1) == data.val.targets).float().mean()))
            means.append(100 * sum(accuracies) / len(accuracies))
        print(name.ljust(16), *(f"{mean:8.1f}" for mean in means), f"   {published:g}", flush=True)
