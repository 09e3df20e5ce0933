"""What a method takes, from its cost lines: known for all of its cells, or not at all."""

from __future__ import annotations

from compatbench.results.measures import Standing
from compatbench.results.store import MethodResults


def evaluate_seconds(results: MethodResults, standing: Standing) -> float | None:
    """Mean wall clock of attaching a module to the target and classifying a test set."""
    known = {cost.order: cost.evaluate_seconds for cost in results.costs}
    rows = [pair.target_row for pair in standing.pairs]
    times = [known.get((row.key, row.backbone, row.test_set)) if row else None for row in rows]
    present = [time for time in times if time is not None]
    return sum(present) / len(present) if present and len(present) == len(times) else None


def peak_memory(results: MethodResults, standing: Standing) -> int | None:
    """Most bytes that any of the cells held."""
    known: dict[str, int] = {}
    for cost in results.costs:
        if cost.peak_memory is not None:
            known[cost.key] = max(cost.peak_memory, known.get(cost.key, 0))
    peaks = [known.get(pair.source_row.key) if pair.source_row else None for pair in standing.pairs]
    present = [peak for peak in peaks if peak is not None]
    return max(present) if present and len(present) == len(peaks) else None


def module_bytes(standing: Standing) -> int | None:
    """Size of the largest module's tensors."""
    rows = [pair.source_row for pair in standing.pairs]
    sizes = [row.module_bytes for row in rows if row is not None and row.status == "ok"]
    return max(sizes, default=None)
