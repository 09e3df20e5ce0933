"""From finished cells to the files in ``results/<suite>/``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from compatbench.data.cards import SuiteCard, suite_tasks
from compatbench.data.draws import load_test_set
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.engine.cell import Cell, CellRecord, shorten_key
from compatbench.engine.flat_settings import flat_settings
from compatbench.engine.matrix import build_matrix, key_cells
from compatbench.engine.method_settings import Settings, resolve_settings
from compatbench.engine.missing import Missing, find_missing
from compatbench.engine.plan import Plan, find_teachers
from compatbench.engine.request import make_request
from compatbench.engine.store import RunStore
from compatbench.files.hashes import sha256_json
from compatbench.method import Method
from compatbench.method.refusals import find_refusal
from compatbench.method.registry import MethodRegistry
from compatbench.results.measures import Answers, score
from compatbench.results.method_results import (
    MethodInfo,
    MethodResults,
    SuiteResults,
    join_provenance,
    merge_results,
    split_results,
)
from compatbench.results.result_files import read_methods, write_results
from compatbench.results.rows import Cost, Row, to_frame


def rows_of(cell: Cell, record: CellRecord, store: RunStore) -> list[Row]:
    """The rows of a cell: the predictions that a store has, scored; or why there are none.

    A failed fit gives a failed row at every place. Predictions that are lost give none.
    """
    predictions, precision = store.read_predictions(cell.key), cell.training.precision
    fit = _place(cell) | {"parameters": record.parameters, "module_bytes": record.module_bytes}
    outcomes = {outcome.where: outcome for outcome in record.records}
    rows = []
    for where in cell.places:
        backbone, test_set, data = where
        place = fit | {"backbone": backbone, "test_set": test_set, "data": shorten_key(data)}
        outcome = outcomes.get(where)
        if record.status == "failed":
            rows.append(Row.model_validate(place | {"status": "failed", "reason": record.error}))
        elif outcome is not None and outcome.status != "ok":
            about = {"status": outcome.status, "reason": outcome.reason}
            rows.append(Row.model_validate(place | about))
        elif outcome is None or where not in predictions:
            continue
        elif (zero_shot := store.read_zero_shot(where, precision)) is not None:
            on_source = [w for w in predictions if w[:2] == (cell.source, where[1])]
            before = predictions[on_source[0]] if on_source and where[0] != cell.source else None
            labels = [sample.label for sample in load_test_set(where[1]).split("test")]
            figures = score(Answers(predictions[where], before, zero_shot, labels))
            about = {"status": "ok", "prompt_diversity": outcome.prompt_diversity}
            rows.append(Row.model_validate(place | about | figures))
    return rows


def _failed(cell: Cell) -> list[Row]:
    """The rows of what cannot be measured; what broken images are has no hash."""
    why = cell.broken
    fit: dict[str, Any] = {"status": "failed", "reason": f"{BrokenImages.__name__}: {why}"}
    fit |= _place(cell)
    return [
        Row(**fit, backbone=b, test_set=t, data=shorten_key(sha256_json([b, t, why])))
        for b, t in product(cell.backbones, cell.test_sets)
    ]


def _place(cell: Cell) -> dict[str, Any]:
    """What rows say of the cell that they are of."""
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


def collect_results(plan: Plan, folder: Path) -> None:
    """Writes what the store now holds of a plan's cells into a suite's folder.

    Rows of other cells of the suite stay as long as their cells, weights and images
    are still the same, so that parts of a suite, and the work of several machines,
    add up. Rows of weights or images that are not on this machine stay, too.
    """
    suite, registry = plan.suite, plan.matrix.registry
    teachers = find_teachers(suite, registry, [choice.name for choice in plan.matrix.choices])
    missing, before = find_missing(suite, teachers=teachers), read_methods(folder)
    merged = []
    for name, new in _measured_methods(plan, Looks()):
        old = before.get(name)
        if old is not None:
            rows = _current_rows(suite, registry, name, old.rows, missing)
            old = replace(old, rows=rows)
        if broken := [row for cell in plan.broken if cell.name == name for row in _failed(cell)]:
            # What was measured before the images broke stays.
            old, lost = old or replace(new, rows=new.rows[:0]), to_frame(broken, Row)
            failed = old.rows["status"] == "failed"
            old = replace(old, rows=pd.concat([old.rows[failed], lost, old.rows[~failed]]))
        keys = {*new.rows["key"], *(old.rows["key"] if old else ())}
        merged.append(merge_results(old, new, keys))
    write_results(folder, *merged)


@dataclass
class Looks:
    """What was read of methods, and of cells that are done, from one look at a run to the next."""

    methods: dict[str, MethodResults] = field(default_factory=dict)
    cells: dict[str, tuple[CellRecord, list[Row], list[Cost]]] = field(default_factory=dict)

    def read(self, plan: Plan, cell: Cell) -> tuple[CellRecord, list[Row], list[Cost]] | None:
        """A cell's record, rows and costs; None if it has no record."""
        if cell.key in self.cells:
            return self.cells[cell.key]
        if (record := plan.store.read(cell.key)) is None:
            return None
        read = record, rows_of(cell, record, plan.store), _costs_of(cell, record)
        if plan.store.is_done(cell, record):
            self.cells[cell.key] = read
        return read


def measured_so_far(plan: Plan, looks: Looks) -> SuiteResults:
    """The results that the records of planned cells give, without those of earlier runs."""
    methods = [method for _, method in _measured_methods(plan, looks) if len(method.rows)]
    return split_results(plan.suite.name, methods)


def _measured_methods(plan: Plan, looks: Looks) -> Iterator[tuple[str, MethodResults]]:
    """By method, the rows of its cells that have a record, by every transfer."""
    suite, registry, by_name = plan.suite, plan.matrix.registry, dict[str, list[Cell]]()
    for cell in plan.cells:
        by_name.setdefault(cell.name, []).append(cell)
    for cell in plan.broken:
        by_name.setdefault(cell.name, [])
    for name, cells in by_name.items():
        measured = [read for cell in cells if (read := looks.read(plan, cell)) is not None]
        base = suite.base_method(name)
        if name not in looks.methods:
            looks.methods[name] = describe_method(suite, registry.get(base), name)
        described = looks.methods[name]
        info = replace(described.info, refused=find_refusal(registry.identify(base)[0]))
        yield (
            name,
            replace(
                described,
                info=info,
                provenance=join_provenance([record.provenance for record, *_ in measured]),
                rows=to_frame([row for _, rows, _ in measured for row in rows], Row),
                costs=to_frame([cost for *_, costs in measured for cost in costs], Cost),
            ),
        )


def _current_rows(
    suite: SuiteCard,
    registry: MethodRegistry,
    name: str,
    rows: pd.DataFrame,
    missing: Missing,
) -> pd.DataFrame:
    """A method's rows without those of methods, weights or images that have changed.

    Rows of shots and seeds that were asked for beside the suite's stay as well.
    """
    shots = sorted({*suite.shots, *rows["shots"]})
    seeds = sorted({*suite.seeds, *rows["seed"]})
    transfers = sorted(set(rows["transfer"]))
    request = make_request(
        suite, [name], shots=shots, seeds=seeds, transfers=transfers, registry=registry
    )
    cells = key_cells(build_matrix(request), missing)
    current = {
        (shorten_key(cell.key), shorten_key(data)) for cell in cells for _, _, data in cell.places
    }
    if missing.backbones.keys() & find_teachers(suite, registry, [name]):
        return rows  # another machine has the teacher
    lost = {(c.task, t, c.shots, c.seed) for c in cells if c.broken for t in c.test_sets}
    columns = ["key", "data", "task", "test_set", "shots", "seed"]
    same = [
        (key, data) in current or tuple(place) in lost
        for key, data, *place in zip(*(rows[name] for name in columns), strict=True)
    ]
    # What is not here cannot be compared; another machine has measured it.
    elsewhere = rows[["backbone", "source"]].isin(list(missing.backbones)).any(axis=1)
    elsewhere |= rows[["task", "test_set"]].isin(list(missing.test_sets)).any(axis=1)
    return rows.loc[elsewhere | pd.Series(same, index=rows.index, dtype=bool)]


def describe_method(suite: SuiteCard, method: type[Method], name: str) -> MethodResults:
    """What ``<method>.json`` says of a method, or of a config of it, in a suite."""
    general = resolve_settings(method, suite, name)
    recipe = Settings(method.Config().model_dump(mode="json"), suite.training)
    differs = _differences(recipe, general)
    if suite.training.precision != "fp32":
        differs["precision"] = ("fp32", suite.training.precision)
    names = {method.card.name, *suite.lineage(name)}
    by_task = any("tasks" in suite.methods.get(each, {}) for each in names)
    for task in suite_tasks(suite) if by_task else ():  # most suites set nothing by task
        changed = _differences(general, resolve_settings(method, suite, name, task))
        differs |= {f"{task}: {setting}": values for setting, values in changed.items()}
    card = method.card
    title = card.title if name == card.name else name
    if name.startswith(f"{card.name}+"):  # such as coop+context-4
        title = f"{card.title}, {name.removeprefix(f'{card.name}+').replace('+', ' ')}"
    facts = card.depth, card.places, card.learns, tuple(sorted(card.needs))
    info = MethodInfo(name, title, card.paper, *facts)
    return MethodResults(info, general.config, differs, {}, to_frame([], Row), transfer=None)


def _differences(before: Settings, after: Settings) -> dict[str, tuple[Any, Any]]:
    """Settings that were changed, by dotted name; the cap on steps is shown elsewhere."""
    old, new = map(_flatten, (before, after))
    return {name: (old.get(name), new[name]) for name in new if old.get(name) != new[name]}


def _flatten(settings: Settings) -> dict[str, Any]:
    training = settings.training.model_dump(mode="json", exclude={"max_steps", "precision"})
    values = dict(flat_settings({**settings.config, "training": training}))
    values.pop("max_steps", None)
    return values
