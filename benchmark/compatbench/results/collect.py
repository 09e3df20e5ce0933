"""From finished cells to the files in ``results/<suite>/``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compatbench.data.cards import SuiteCard
from compatbench.data.cards.suite import COPIED
from compatbench.data.draws import ShotsFiles
from compatbench.engine.cell import Cell, CellRecord
from compatbench.engine.keys import data_key
from compatbench.engine.matrix import resolve_config
from compatbench.engine.missing import Missing, find_missing
from compatbench.engine.plan import PlannedCell, plan_cells
from compatbench.method import Method
from compatbench.method.registry import MethodRegistry
from compatbench.results.method_results import MethodInfo, MethodResults, SuiteResults
from compatbench.results.rows import Cost, Row
from compatbench.results.store import (
    join_provenance,
    merge_results,
    read_methods,
    split_transfers,
    write_results,
)


def rows_of(cell: Cell, record: CellRecord) -> list[Row]:
    """The rows of a cell; a failed fit gives one failed row for every backbone and test set."""
    fit: dict[str, object] = {
        "method": cell.name,
        "transfer": cell.transfer,
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


def collect_results(
    suite: SuiteCard,
    registry: MethodRegistry,
    planned: Iterable[PlannedCell],
    folder: Path,
    draws: ShotsFiles | None = None,
) -> None:
    """Writes the results of planned cells into a suite's folder.

    Rows of other cells of the suite stay as long as their cells, weights and images
    are still the same, so that parts of a suite, and the work of several machines,
    add up. Rows of weights or images that are not on this machine stay, too.

    Args:
        folder: ``results/<suite>/``.
        draws: few-shot draws that are given and not made here; their rows take the place of
            others of the same task, shots and seed.

    Raises:
        CompatbenchError: a broken results file, or a folder that cannot be written.
    """
    missing = find_missing(suite)
    before = read_methods(folder)
    for name, new in _measured_methods(suite, registry, planned).items():
        old = before.get(name)
        rows = _current_rows(suite, registry, name, old.rows if old else (), draws, missing)
        old = old and replace(old, rows=rows)
        keys = {row.key for row in (*rows, *new.rows)}
        write_results(folder, merge_results(old, new, keys))


def measured_so_far(
    suite: SuiteCard, registry: MethodRegistry, planned: Iterable[PlannedCell]
) -> SuiteResults:
    """The results that the records of planned cells give, without those of earlier runs."""
    methods: dict[str, MethodResults] = {}
    transferred: dict[str, dict[str, MethodResults]] = {}
    for name, whole in _measured_methods(suite, registry, planned).items():
        for transfer, part in split_transfers(whole).items():
            group = methods if transfer == COPIED else transferred.setdefault(transfer, {})
            if part.rows:
                group[name] = part
    return SuiteResults(suite.name, methods, transferred)


def _measured_methods(
    suite: SuiteCard, registry: MethodRegistry, planned: Iterable[PlannedCell]
) -> dict[str, MethodResults]:
    """By method, the rows of its cells that have a record, by every transfer."""
    by_name: dict[str, list[PlannedCell]] = {}
    for item in planned:
        by_name.setdefault(item.cell.name, []).append(item)
    found = {}
    for name, items in by_name.items():
        measured = [(item.cell, item.record) for item in items if item.record is not None]
        found[name] = replace(
            describe_method(suite, registry.get(suite.base_method(name)), name),
            provenance=join_provenance([record.provenance for _, record in measured]),
            rows=tuple(row for cell, record in measured for row in rows_of(cell, record)),
            costs=tuple(cost for _, record in measured for cost in costs_of(record)),
        )
    return found


def _current_rows(
    suite: SuiteCard,
    registry: MethodRegistry,
    name: str,
    rows: Sequence[Row],
    draws: ShotsFiles | None,
    missing: Missing,
) -> tuple[Row, ...]:
    """A method's rows without those of methods, weights or images that have changed.

    Rows of shots and seeds that were asked for beside the suite's stay as well.
    """
    if not rows:
        return ()
    shots = sorted({*suite.shots, *(row.shots for row in rows)})
    seeds = sorted({*suite.seeds, *(row.seed for row in rows)})
    transfers = sorted({row.transfer for row in rows})
    cells = plan_cells(suite, registry, [name], "all", seeds, shots, draws, missing, transfers)
    current = {
        (cell.key, data_key(backbone, test_set))
        for cell in cells
        for backbone in cell.backbones
        for test_set in cell.test_sets
    }
    return tuple(
        row
        for row in rows
        if (row.key, row.data) in current
        # What is not here cannot be compared; another machine has measured it.
        or {row.backbone, row.source} & set(missing.backbones)
        or {row.task, row.test_set} & set(missing.test_sets)
    )


def describe_method(suite: SuiteCard, method: type[Method], name: str) -> MethodResults:
    """What ``<method>.json`` says of a method in a suite: its info, config and differences.

    Args:
        name: the method's, or that of a config of it.

    Raises:
        CompatbenchError: the suite sets something the method does not know.
    """
    config = resolve_config(method, suite, name)
    differs = _differences(method.Config().model_dump(mode="json"), config)
    if suite.training.precision != "fp32":
        differs["precision"] = ("fp32", suite.training.precision)
    card = method.card
    title = card.title if name == card.name else name
    info = MethodInfo(name, title, card.paper, card.depth, card.places, card.learns)
    return MethodResults(info, config, differs, provenance={}, rows=(), transfer=None)


def _differences(
    recipe: dict[str, Any], suite: dict[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Settings that a suite changed, by dotted name; the cap on steps is shown elsewhere."""
    changed: dict[str, tuple[Any, Any]] = {}
    for name, value in suite.items():
        default = recipe.get(name)
        if isinstance(value, dict) and isinstance(default, dict) and name == "recipe":
            changed |= _differences(default, value, f"{name}.")
        elif value != default and name != "max_steps":
            changed[f"{prefix}{name}"] = (default, value)
    return changed
