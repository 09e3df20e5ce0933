"""What a method takes: known for all of its cells, or not at all."""

from __future__ import annotations

from compatbench.results.measures import Standing, mean_of_all


def fit_seconds(standing: Standing) -> float | None:
    """Mean wall clock of the fits."""
    known = {cost.key: cost.fit_seconds for cost in standing.results.costs}
    return mean_of_all([known.get(key) for key in standing.column("source", "key").flat])


def evaluate_seconds(standing: Standing) -> float | None:
    """Mean wall clock of attaching a module to the target and classifying a test set."""
    known = {cost.order: cost.evaluate_seconds for cost in standing.results.costs}
    rows = [
        standing.results.rows[position] if position >= 0 else None
        for position in standing.target_rows.flat
    ]
    return mean_of_all([row and known.get((row.key, row.backbone, row.test_set)) for row in rows])


def peak_memory(standing: Standing) -> int | None:
    """Most bytes that any of the cells held."""
    known: dict[str, int] = {}
    for cost in standing.results.costs:
        if cost.peak_memory is not None:
            known[cost.key] = max(known.get(cost.key, 0), cost.peak_memory)
    keys = set(standing.column("source", "key").flat)
    return max(known[key] for key in keys) if keys and keys <= known.keys() else None


def module_bytes(standing: Standing) -> int | None:
    """Size of the largest module's tensors."""
    measured = standing.column("source", "status") == "ok"
    sizes = standing.column("source", "module_bytes")[measured]
    return int(sizes.max()) if sizes.size else None
