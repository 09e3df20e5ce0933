"""Items and queries as an old and a better new model see them."""

from __future__ import annotations

from typing import Any

import numpy as np

import compatbench as cb

ITEMS = 400
QUERIES = 120


class World:
    """Items of six classes; ``old_noise`` and ``new_noise`` say how well the models see them.

    ``query_noise`` is that of queries on the old model.
    """

    def __init__(
        self,
        old_noise: float = 1.6,
        new_noise: float = 0.4,
        query_noise: float = 0.0,
        items: int = ITEMS,
        queries: int = QUERIES,
    ) -> None:
        generator = np.random.default_rng(5)
        centres = generator.standard_normal((6, 8))
        numbers = generator.integers(0, 6, items + queries)
        things = centres[numbers] + 0.9 * generator.standard_normal((len(numbers), 8))
        sides = []
        for noise, size in ((old_noise, 8), (new_noise, 12)):
            seen = things @ generator.standard_normal((8, size))
            seen += noise * generator.standard_normal(seen.shape)
            sides.append(seen.astype(np.float32))
        self.labels = numbers[:items]
        self.asked = numbers[items:]
        self.old, self.new = (side[:items] for side in sides)
        noise = query_noise * generator.standard_normal((queries, 8))
        self.queries = (sides[0][items:] + noise.astype(np.float32), sides[1][items:])

    def measure(self, **changes: Any) -> Any:
        settings = {"queries": self.queries, "labels": self.labels, "query_labels": self.asked}
        settings |= changes
        old = settings.pop("old", self.old)
        new = settings.pop("new", self.new)
        return cb.measure_index(old, new, **settings)


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, float)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
