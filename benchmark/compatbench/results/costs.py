"""What a method takes, from its cost lines: known for all of its cells, or not at all."""

from __future__ import annotations

from compatbench.results.measures import Standing
from compatbench.results.store import MethodResults


def evaluate_seconds(results: MethodResults, standing: Standing) -> float | None:
    """Mean wall clock of attaching a module to the target and classifying a test set."""
    known = {cost.order: cost.evaluate_seconds for cost in results.costs}
    positions = standing.target_rows.ravel().tolist()
    rows = [results.rows[position] for position in positions if position >= 0]
    times = [known.get((row.key, row.backbone, row.test_set)) for row in rows]
    present = [time for time in times if time is not None]
    return sum(present) / len(present) if present and len(present) == len(positions) else None


def peak_memory(results: MethodResults, standing: Standing) -> int | None:
    """Most bytes that any of the cells held."""
    measured = [
        (cost.peak_memory, cost.key) for cost in results.costs if cost.peak_memory is not None
    ]
    known = {key: peak for peak, key in sorted(measured)}
    keys = set(standing.column("source", "key").flat)
    return max(known[key] for key in keys) if keys and keys <= known.keys() else None


def module_bytes(standing: Standing) -> int | None:
    """Size of the largest module's tensors."""
    measured = standing.column("source", "status") == "ok"
    sizes = standing.column("source", "module_bytes")[measured]
    return int(sizes.max()) if sizes.size else None
