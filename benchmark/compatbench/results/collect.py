"""From finished cells to the files in ``results/<suite>/``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import pandas as pd

from compatbench.data.draws import load_test_set
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.data.refusals import find_refusal
from compatbench.engine.cell import Cell, CellRecord, Where, shorten_key
from compatbench.engine.described_method import DescribedMethod
from compatbench.engine.plan import Plan
from compatbench.engine.store import RunStore
from compatbench.engine.stored_rows import RowKey
from compatbench.files.hashes import sha256_json
from compatbench.method.predictions import Predictions
from compatbench.results.measures import Answers, score
from compatbench.results.result_files import ResultFiles
from compatbench.results.rows import Cost, Row, to_frame
from compatbench.results.stored_method import (
    MethodInfo,
    StoredMethod,
    join_provenance,
    merge_stored,
)
from compatbench.results.suite_results import SuiteResults, gather_results


def rows_of(cell: Cell, record: CellRecord, store: RunStore) -> list[Row]:
    """Score the predictions that a store has of a cell. Return its rows.

    A failed fit gives a failed row at every place. Predictions that are lost give none.
    """
    predictions = store.read_predictions(cell.key)
    fit = _describe_fit(cell)
    fit |= {"parameters": record.parameters, "module_bytes": record.module_bytes}
    outcomes = {outcome.where: outcome for outcome in record.records}
    labels_of: dict[str, list[int]] = {}  # by test set; several backbones share one
    rows = []
    for where in cell.places:
        backbone, test_set, data = where
        place = fit | {"backbone": backbone, "test_set": test_set, "data": shorten_key(data)}
        outcome = outcomes.get(where)
        if record.status == "failed":
            result = {"status": "failed", "reason": record.error}
        elif outcome is not None and outcome.status != "ok":
            result = {"status": outcome.status, "reason": outcome.reason}
        elif outcome is None or where not in predictions:
            continue
        else:
            zero_shot = store.read_zero_shot(where, cell.training.precision)
            if zero_shot is None:
                continue
            on_source = None
            if backbone != cell.source:
                on_source = _find_on_source(cell, predictions, test_set)
            if test_set not in labels_of:
                images = load_test_set(test_set).split("test")
                labels_of[test_set] = [image.label for image in images]
            answers = Answers(predictions[where], on_source, zero_shot, labels_of[test_set])
            result = {"status": "ok", "prompt_diversity": outcome.prompt_diversity}
            result |= score(answers)
        rows.append(Row.model_validate(place | result))
    return rows


def _find_on_source(
    cell: Cell, predictions: Mapping[Where, Predictions], test_set: str
) -> Predictions | None:
    """Return the module's predictions for the same images on its source; None if lost."""
    for where in cell.places:  # the file may also have places of an earlier test set
        backbone, name, _ = where
        if (backbone, name) == (cell.source, test_set):
            return predictions.get(where)
    return None


def _failed(cell: Cell) -> list[Row]:
    """Return the failed rows of a cell whose images are broken and so have no hash."""
    reason = f"{BrokenImages.__name__}: {cell.broken}"
    fit: dict[str, Any] = _describe_fit(cell) | {"status": "failed", "reason": reason}
    rows = []
    for backbone, test_set in product(cell.backbones, cell.test_sets):
        data = shorten_key(sha256_json([backbone, test_set, cell.broken]))
        rows.append(Row(**fit, backbone=backbone, test_set=test_set, data=data))
    return rows


def _describe_fit(cell: Cell) -> dict[str, Any]:
    """Return the columns that all rows of a cell share."""
    return {
        "method": cell.name,
        "transfer": cell.transfer,
        "task": cell.task,
        "source": cell.source,
        "shots": cell.shots,
        "seed": cell.seed,
        "key": shorten_key(cell.key),
    }


def _costs_of(cell: Cell, record: CellRecord) -> list[Cost]:
    """Return the time of each outcome of a cell."""
    costs = []
    for outcome in record.records:
        if outcome.where in cell.places:
            cost = Cost(
                method=cell.name,
                key=shorten_key(record.key),
                backbone=outcome.backbone,
                test_set=outcome.test_set,
                fit_seconds=record.fit_seconds,
                evaluate_seconds=outcome.seconds,
                peak_memory=record.peak_memory,
            )
            costs.append(cost)
    return costs


def collect_results(plan: Plan, files: ResultFiles) -> None:
    """Score what the store has of a plan's cells, and add the rows to a suite's folder.

    Rows of other cells stay unless the plan found them outdated, so that parts of a suite and the
    work of several machines add up.
    """
    suite = plan.suite.name
    stored = files.read_methods(suite)
    merged = []
    for name, new in _measured_methods(plan, ResultCache()):
        old = stored.get(name)
        if old is not None:
            old = replace(old, rows=_drop_outdated(old.rows, plan.outdated))
        unreadable = []
        for cell in plan.broken:
            if cell.name == name:
                unreadable += _failed(cell)
        if unreadable:
            # Rows that were measured before the images broke stay: of two lines the later counts.
            old = old or replace(new, rows=new.rows[:0])
            failed = old.rows["status"] == "failed"
            rows = [old.rows[failed], to_frame(unreadable, Row), old.rows[~failed]]
            old = replace(old, rows=pd.concat(rows))
        merged.append(merge_stored(old, new))
    files.write(suite, merged)


def _drop_outdated(rows: pd.DataFrame, outdated: Collection[RowKey]) -> pd.DataFrame:
    """Return the rows whose method, key and hash of weights and images are not outdated."""
    identities = zip(rows["method"], rows["key"], rows["data"], strict=True)
    kept = [identity not in outdated for identity in identities]
    return rows.loc[pd.Series(kept, index=rows.index, dtype=bool)]


CellResults = tuple[CellRecord, list[Row], list[Cost]]


@dataclass
class ResultCache:
    """The results of finished cells, kept while a run is watched."""

    cells: dict[str, CellResults] = field(default_factory=dict)

    def read(self, plan: Plan, cell: Cell) -> CellResults | None:
        """Return a cell's record, rows and costs; None if it has no record."""
        if cell.key in self.cells:
            return self.cells[cell.key]
        record = plan.store.read(cell.key)
        if record is None:
            return None
        results = (record, rows_of(cell, record, plan.store), _costs_of(cell, record))
        if plan.store.is_done(cell, record):
            self.cells[cell.key] = results
        return results


def partial_results(plan: Plan, cache: ResultCache) -> SuiteResults:
    """Return the results of the plan's cells so far, without those of earlier runs."""
    methods = {name: each for name, each in _measured_methods(plan, cache) if len(each.rows)}
    return gather_results(plan.suite.name, methods)


def _measured_methods(plan: Plan, cache: ResultCache) -> Iterator[tuple[str, StoredMethod]]:
    """Yield each method of a plan with the rows of its cells that have a record."""
    cells_of: dict[str, list[Cell]] = {}
    for cell in plan.cells:
        cells_of.setdefault(cell.name, []).append(cell)
    for cell in plan.broken:
        cells_of.setdefault(cell.name, [])
    for name, cells in cells_of.items():
        provenances = []
        rows: list[Row] = []
        costs: list[Cost] = []
        for cell in cells:
            measured = cache.read(plan, cell)
            if measured is None:
                continue
            record, cell_rows, cell_costs = measured
            provenances.append(record.provenance)
            rows += cell_rows
            costs += cell_costs
        results = replace(
            to_stored(plan.methods[name]),
            provenance=join_provenance(provenances),
            rows=to_frame(rows, Row),
            costs=to_frame(costs, Cost),
        )
        yield name, results


def to_stored(method: DescribedMethod) -> StoredMethod:
    """Return the contents of ``<method>.json``, without rows."""
    info = MethodInfo(
        name=method.name,
        title=method.title,
        paper=method.paper,
        depth=method.depth,
        inserts=method.inserts,
        learns=method.learns,
        needs=method.needs,
        # A check that passes while a run goes on counts.
        refused=find_refusal(method.identity),
    )
    return StoredMethod(info, method.config, method.differs, {}, to_frame([], Row))
