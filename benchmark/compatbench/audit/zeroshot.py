"""Zero-shot counts, computed again from the images' features."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import torch

from compatbench.backbone import Backbone, load_backbone
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import load_task


@torch.no_grad()
def count_zero_shot(
    wheres: Iterable[tuple[str, str]], cache: FeatureCache, device: str, precision: str = "fp32"
) -> dict[tuple[str, str], int]:
    """Images that each backbone's own zero-shot classifier has right.

    Args:
        wheres: (backbone, test set) pairs; features that are not cached are computed.

    Raises:
        CompatbenchError: weights or images that cannot be read.
    """
    load = lru_cache(maxsize=1)(load_backbone)
    counts = {}
    for name, test_set in sorted(wheres):
        backbone: Backbone = load(name, device=device, precision=precision)
        task = load_task(test_set)
        samples = task.split("test")
        features = cache.features(backbone, task, samples)
        logits = features @ backbone.zero_shot(task.labels).T
        targets = torch.tensor([sample.label for sample in samples], device=backbone.device)
        counts[name, test_set] = int((logits.argmax(-1) == targets).sum())
    return counts
