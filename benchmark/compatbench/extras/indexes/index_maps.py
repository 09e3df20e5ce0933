"""Linear maps from an old model's vectors to a new model's: fitted, applied, and kept in files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from compatbench.errors import CompatbenchError
from compatbench.extras.indexes.alignment import require_aligned
from compatbench.extras.indexes.vectors import VectorPair, open_pair
from compatbench.files.atomic import write_atomic
from compatbench.files.kinds import require_new
from compatbench.messages import count_are, first_line

FEWEST_PAIRS = 8
HELD_OUT = 4  # a quarter of the pairs judges the maps that were fitted on the others
DAMPINGS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
METADATA = "compatbench_index_map"
Kind = Literal["orthogonal", "ridge"]
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class IndexMap:
    """The map f ↦ ‖f‖ g / ‖g‖ with g = M f / ‖f‖ + b; a vector keeps its length.

    Attributes:
        matrix: M, transposed, ``[old width, new width]``, in single precision.
        bias: b, ``[new width]``.
        about: how it was fitted: its kind, the number of pairs, and how near mapped vectors come to
            the new model's on pairs that were held out (the mean ``cosine``).
    """

    matrix: Array
    bias: Array
    about: dict[str, Any] = field(default_factory=dict)

    def __call__(self, vectors: Array) -> Array:
        """Map vectors ``[n, old width]``; return ``[n, new width]`` in single precision."""
        vectors = np.asarray(vectors, np.float32)
        tiny = np.finfo(np.float32).tiny
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        mapped = vectors / np.maximum(lengths, tiny) @ self.matrix + self.bias
        mapped *= lengths / np.maximum(np.linalg.norm(mapped, axis=1, keepdims=True), tiny)
        return mapped

    def __repr__(self) -> str:
        widths = " to ".join(map(str, self.matrix.shape))
        return f"<IndexMap {self.about.get('kind', '')}: width {widths}>"

    def __str__(self) -> str:
        old, new = self.matrix.shape
        return (
            f"{self.about['kind']} map from width {old} to {new}, fitted on "
            f"{self.about['pairs']:,} pairs; mean cosine {self.about['cosine']:.3f} with the new "
            "model's vectors on pairs that were held out"
        )

    def save(self, path: str | Path) -> None:
        """Write the tensors ``matrix`` and ``bias`` as safetensors, with ``about`` as metadata."""
        tensors = {"matrix": self.matrix, "bias": self.bias}
        # A single entry, because safetensors does not sort several.
        metadata = {METADATA: json.dumps(self.about, sort_keys=True)}
        write_atomic(Path(path), save(tensors, metadata))


def load_index_map(path: str | Path) -> IndexMap:
    """Read a map that ``IndexMap.save`` or ``index map`` wrote."""
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            about = json.loads(metadata[METADATA])
            return IndexMap(file.get_tensor("matrix"), file.get_tensor("bias"), about)
    except KeyError:
        raise CompatbenchError(f"{path} is not a map; 'compatbench index map' writes one") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise CompatbenchError(f"cannot read the map {path}: {first_line(error)}") from None


def fit_index_map(
    pairs: VectorPair,
    *,
    kind: Literal["best", "orthogonal", "ridge"] = "best",
    column: str | None = None,
    out: str | Path | None = None,
) -> IndexMap:
    """Fit a map from the vectors of an old model to those of a new one. No model is loaded.

    An orthogonal map (Procrustes analysis) rotates the centred vectors. A ridge regression also
    stretches them; its penalty is the distance from the orthogonal map, with a weight that is
    chosen on held-out pairs. Give at least twice as many pairs as the old vectors have dimensions.

    Args:
        pairs: the same items encoded by the old and by the new model, in the same rows: two arrays,
            or two ``.npy``, parquet or Faiss files.
        kind: ``orthogonal`` or ``ridge``; by default whichever is better on held-out pairs.
        column: the column of vectors, if a parquet file has several.
        out: the file to write; nothing is written without it.

    Returns:
        The map: a function of vectors, with ``save``; ``about`` states how good it is.

    Raises:
        CompatbenchError: different numbers of rows, rows that do not match, fewer than 8 pairs, or
            a file that exists.
    """
    if out is not None:
        require_new(Path(out))
    opened = open_pair(pairs, "vectors", column)
    require_aligned(*opened)
    fitted = fit_map(opened[0].all_units(), opened[1].all_units(), kind)
    if out is not None:
        fitted.save(out)
    return fitted


@dataclass(frozen=True)
class _Candidate:
    kind: Kind
    damping: float | None = None


def fit_map(source: Array, target: Array, kind: str = "best") -> IndexMap:
    """Fit a map to unit vectors ``[n, e_s]`` and ``[n, e_t]``.

    Every candidate is judged on a quarter of the pairs by its mean cosine with the target, after
    being fitted on the others. The best one is then fitted on all pairs.
    """
    if len(source) < FEWEST_PAIRS:
        raise CompatbenchError(
            f"{count_are(len(source), 'pair')} too few for a map; give at least {FEWEST_PAIRS}, "
            f"and better {2 * source.shape[1]:,}, twice as many as the old vectors have dimensions"
        )
    candidates = [_Candidate("orthogonal")]
    candidates += [_Candidate("ridge", damping) for damping in DAMPINGS]
    if kind != "best":
        candidates = [each for each in candidates if each.kind == kind]
    order = np.random.default_rng(0).permutation(len(source))
    held_out = order[: len(order) // HELD_OUT]
    fitted_on = order[len(order) // HELD_OUT :]
    best = candidates[0]
    best_cosine = -np.inf
    for candidate in candidates:
        fitted = _fit(candidate, source[fitted_on], target[fitted_on])
        cosine = float((fitted(source[held_out]) * target[held_out]).sum(axis=1).mean())
        if cosine > best_cosine:
            best = candidate
            best_cosine = cosine
    fitted = _fit(best, source, target)
    about = asdict(best) | {"pairs": len(source), "cosine": round(best_cosine, 6)}
    return IndexMap(fitted.matrix, fitted.bias, about)


def _fit(candidate: _Candidate, source: Array, target: Array) -> IndexMap:
    """Fit one kind of map to the centred vectors; its bias moves mean to mean."""
    source_mean = source.mean(axis=0, dtype=np.float64)
    target_mean = target.mean(axis=0, dtype=np.float64)
    source = source - source_mean
    target = target - target_mean
    matrix = orthogonal_matrix(source, target)
    if candidate.damping is not None:
        matrix = ridge_matrix(source, target, matrix, candidate.damping)
    bias = target_mean - source_mean @ matrix
    return IndexMap(matrix.astype(np.float32), bias.astype(np.float32))


def orthogonal_matrix(source: Array, target: Array) -> Array:
    """Return the semi-orthogonal R that minimises ‖source R - target‖: U Vᵀ of sourceᵀ target.

    ``scipy.linalg.orthogonal_procrustes`` requires equal widths.
    """
    u, _, vt = np.linalg.svd(source.T @ target, full_matrices=False)
    return u @ vt


def ridge_matrix(source: Array, target: Array, prior: Array, damping: float) -> Array:
    """Return the M that minimises ‖source M - target‖² / n + damping ‖M - prior‖²."""
    weight = len(source) * damping
    left = source.T @ source + weight * np.eye(source.shape[1])
    return np.linalg.solve(left, source.T @ target + weight * prior)
