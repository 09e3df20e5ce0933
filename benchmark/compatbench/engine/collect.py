"""From the run store to result rows."""

from __future__ import annotations

from collections.abc import Iterable

from compatbench.engine.aligned_cells import plain_name
from compatbench.engine.cell import Cell, CellRecord
from compatbench.engine.keys import data_key
from compatbench.engine.plan import PlannedCell
from compatbench.engine.record import transfer_of
from compatbench.results.rows import Cost, Row


def rows_of(cell: Cell, record: CellRecord) -> list[Row]:
    """The rows of a cell; a failed fit gives one failed row for every backbone and test set."""
    fit: dict[str, object] = {
        "method": plain_name(cell.name),
        "transfer": transfer_of(cell.name),
        "task": cell.task,
        "source": cell.source,
        "shots": cell.shots,
        "seed": cell.seed,
        "key": cell.key,
        "parameters": record.parameters,
        "module_bytes": record.module_bytes,
    }
    measured = {(r.backbone, r.test_set, r.data): r for r in record.records}
    rows = []
    for backbone in cell.backbones:
        for test_set in cell.test_sets:
            data = data_key(backbone, test_set)
            where = {"backbone": backbone, "test_set": test_set, "data": data}
            if record.status == "failed":
                outcome: dict[str, object] = {"status": "failed", "reason": record.error}
            elif (found := measured.get((backbone, test_set, data))) is not None:
                outcome = found.model_dump(exclude={*where, "seconds"})
            else:
                continue
            rows.append(Row.model_validate(fit | where | outcome))
    return rows


def costs_of(record: CellRecord) -> list[Cost]:
    """What each record of a cell took."""
    return [
        Cost.model_validate(
            {
                "key": record.key,
                "backbone": r.backbone,
                "test_set": r.test_set,
                "fit_seconds": record.fit_seconds,
                "evaluate_seconds": r.seconds,
                "peak_memory": record.peak_memory,
            }
        )
        for r in record.records
        if r.data == data_key(r.backbone, r.test_set)
    ]


def mean_seconds(planned: Iterable[PlannedCell]) -> dict[str, float]:
    """Mean seconds of a finished cell, by method; for estimates."""
    spent: dict[str, list[float]] = {}
    for item in planned:
        if item.record is not None and item.record.status == "ok":
            seconds = item.record.fit_seconds + sum(r.seconds for r in item.record.records)
            spent.setdefault(item.cell.name, []).append(seconds)
    return {method: sum(seconds) / len(seconds) for method, seconds in spent.items()}
