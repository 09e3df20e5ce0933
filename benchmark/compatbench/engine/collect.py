"""From the run store to result rows."""

from __future__ import annotations

from compatbench.engine.cell import Cell, CellRecord
from compatbench.engine.keys import data_key
from compatbench.results.rows import Cost, Row


def rows_of(cell: Cell, record: CellRecord) -> list[Row]:
    """The rows of a cell; a failed fit gives one failed row for every backbone and test set."""
    fit: dict[str, object] = {
        "method": cell.name,
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
                outcome = {
                    "status": found.status,
                    "correct": found.correct,
                    "total": found.total,
                    "zero_shot_correct": found.zero_shot_correct,
                    "negative_flips": found.negative_flips,
                    "positive_flips": found.positive_flips,
                    "inconsistent_errors": found.inconsistent_errors,
                    "ece": found.ece,
                    "reason": found.reason,
                }
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
