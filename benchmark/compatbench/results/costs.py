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
    known = results.cost_frame.dropna(subset=["peak_memory"]).groupby("key")["peak_memory"].max()
    keys = standing.column("source", "key").ravel()
    return int(known[keys].max()) if len(keys) and set(keys) <= set(known.index) else None


def module_bytes(standing: Standing) -> int | None:
    """Size of the largest module's tensors."""
    measured = standing.column("source", "status") == "ok"
    sizes = standing.column("source", "module_bytes")[measured]
    return int(sizes.max()) if sizes.size else None
