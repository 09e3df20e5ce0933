"""Dassl's few-shot draw, written anew."""

from __future__ import annotations

import random

from compatbench.data.images.source import Sample


def dassl_draw(
    train: list[Sample], val: list[Sample], shots: int, seed: int
) -> tuple[list[Sample], ...]:
    """With a generator of Python's, as Dassl: training images first, then validation."""
    generator, results = random.Random(seed), []
    for items, wanted in ((train, shots), (val, min(shots, 4))):
        drawn = []
        for label in dict.fromkeys(item.label for item in items):
            of_class = [item for item in items if item.label == label]
            drawn += generator.sample(of_class, wanted) if len(of_class) >= wanted else of_class
        results.append(drawn)
    return tuple(results)
