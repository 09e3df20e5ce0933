"""A map between two models from vectors of different things: mini-vec2vec (arXiv:2510.02348).

Its steps and numbers are those of the authors' notebook (github.com/guy-dar/mini-vec2vec), with
fewer clusters where there are few vectors; k-means is scipy's.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.optimize import quadratic_assignment

from compatbench.backbone.joint_maps import find_turn
from compatbench.extras.indexes.index_maps import FeatureMap, Pair, Vectors

RUNS, RESTARTS, ANCHORS = 30, 30, 20  # of matching anchors
NEIGHBOURS = 50
ROUNDS, SAMPLE = 100, 1000  # of the first refinement
CLUSTERS = 500  # of the second
FEWEST = 1000  # vectors of each side: of 600 it found nothing, even where there is an exact map


def find_unpaired(source: Vectors, target: Vectors, seed: int = 0) -> tuple[FeatureMap, FeatureMap]:
    """The maps from source to target and back, from unit vectors ``[n, e_s]`` and ``[m, e_t]``.

    1. In both, clusters of the centred vectors are matched by the quadratic assignment of their
       inner products, many times; a vector's cosines with all centres are its description, and the
       mean of the nearest by description its match, to which an orthogonal matrix is fitted.
    2. Vectors that are mapped so take the mean of their nearest for their match, again and again.
    3. So do clusters, whose centres in the target begin from the mapped ones.
    """
    generator = np.random.default_rng(seed)
    means = source.mean(0), target.mean(0)
    x, y = (_unit(side - mean) for side, mean in zip((source, target), means, strict=True))
    anchors = [_match_anchors(x, y, generator) for _ in range(RUNS)]
    described = [
        _unit(side @ _unit(np.concatenate(centres)).T)
        for side, centres in zip((x, y), zip(*anchors, strict=True), strict=True)
    ]
    matrix = find_turn(x, _mean_of_nearest(described[0], described[1], y))
    for _ in range(ROUNDS):
        some = x[generator.permutation(len(x))[:SAMPLE]]
        matched = _mean_of_nearest(_unit(some @ matrix), y, y)
        matrix = (matrix + find_turn(some, matched)) / 2
    count = min(CLUSTERS, len(x) // 10, len(y) // 10)
    centres = _cluster(x, count, generator)
    matched = _cluster(y, centres @ matrix, generator)
    matrix = (matrix + find_turn(centres, matched)) / 2
    there = FeatureMap(matrix, means[1] - means[0] @ matrix)
    return there, FeatureMap(matrix.T, means[0] - means[1] @ matrix.T)


def _match_anchors(x: Vectors, y: Vectors, generator: np.random.Generator) -> Pair:
    """Centres of both, in rows that belong together, ``[ANCHORS, e]``."""
    centres = [_cluster(side, ANCHORS, generator) for side in (x, y)]
    kernels = [each - each.mean(0) for each in centres]
    kernels = [each @ each.T for each in kernels]
    options = {"maximize": True, "rng": generator}
    best = max(
        (quadratic_assignment(*kernels, method="2opt", options=options) for _ in range(RESTARTS)),
        key=lambda match: match.fun,
    )
    return centres[0], centres[1][best.col_ind]


def _cluster(vectors: Vectors, start: int | Vectors, generator: np.random.Generator) -> Vectors:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a cluster that is left empty
        how = "++" if isinstance(start, int) else "matrix"
        # The name of older scipy, which newer ones take, too.
        return kmeans2(vectors, start, minit=how, seed=generator)[0]  # type: ignore[call-arg]


def _mean_of_nearest(queries: Vectors, keys: Vectors, values: Vectors) -> Vectors:
    """For each query the mean of the values of the keys with the largest products."""
    count = min(NEIGHBOURS, len(keys) // 4)
    nearest = np.argpartition(-(queries @ keys.T), count - 1, axis=1)[:, :count]
    return np.stack([values[rows].mean(0) for rows in nearest])


def _unit(vectors: Vectors) -> Vectors:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
