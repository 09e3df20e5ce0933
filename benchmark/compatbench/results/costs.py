"""What a method takes, from its cost lines: known for all of its cells, or not at all."""

from __future__ import annotations

from compatbench.results.measures import Standing
from compatbench.results.store import MethodResults


def evaluate_seconds(results: MethodResults, standing: Standing) -> float | None:
    """Mean wall clock of attaching a module to the target and classifying a test set."""
    if standing.target_rows.size == 0 or (standing.target_rows < 0).any():
        return None
    place = ["key", "backbone", "test_set"]
    rows = results.frame[place].take(standing.target_rows.ravel())
    times = rows.merge(results.cost_frame, how="left", on=place)["evaluate_seconds"]
    return None if times.isna().any() else sum(times.tolist()) / len(times)


def peak_memory(results: MethodResults, standing: Standing) -> int | None:
    """Most bytes that any of the cells held."""
    costs = results.cost_frame.dropna(subset="peak_memory").sort_values("peak_memory")
    known = dict(zip(costs["key"].tolist(), costs["peak_memory"].tolist(), strict=True))
    keys = set(standing.column("source", "key").flat)
    return max(known[key] for key in keys) if keys and keys <= known.keys() else None


def module_bytes(standing: Standing) -> int | None:
    """Size of the largest module's tensors."""
    measured = standing.column("source", "status") == "ok"
    sizes = standing.column("source", "module_bytes")[measured]
    return int(sizes.max()) if sizes.size else None
