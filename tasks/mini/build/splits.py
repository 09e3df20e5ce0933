"""Makes the splits of the tasks out of the drawings of their classes."""

from __future__ import annotations

import dataclasses

import pandas as pd

from .classes import ClassDrawings, Finder, TaskSpec, fixed_number, limits

#: A test split with fewer drawings than this per class gets two paints of each.
FEW_TEST_DRAWINGS = 6
COLUMNS = ["split", "label", "set", "row", "paint"]


@dataclasses.dataclass
class Split:
    """The rows of one task or variant: split, label, set, row (of the set's array), paint."""

    name: str
    rows: pd.DataFrame

    def counts(self) -> dict[str, int]:
        sizes = self.rows.split.value_counts()
        return {s: int(sizes[s]) for s in ("train", "val", "test") if s in sizes}


@dataclasses.dataclass
class Task:
    """A task with its chosen classes, its splits (the task's own first) and its class facts."""

    spec: TaskSpec
    classes: list[str]
    splits: list[Split]
    facts: pd.DataFrame


def make_task(spec: TaskSpec, finder: Finder) -> Task:
    """Chooses a task's classes and makes its splits.

    Classes with too few drawings are left out; of the others, those with the most
    drawings stay. No model has a say.
    """
    bounds = limits()
    found = [finder.find(spec, name) for name in spec.classes]
    eligible = [
        c
        for c in found
        if len(c.pool) >= bounds["min_pool"]
        and len(c.test) >= bounds["min_test"]
        and all(len(v) for v in c.variants.values())
        and c.pretraining >= bounds["min_pretraining"]
    ]
    eligible.sort(key=lambda c: (-min(len(c.pool), 2 * len(c.test)), c.name))
    chosen = sorted(eligible[: bounds["classes"]], key=lambda c: c.name)
    splits = [Split(spec.name, _main_rows(spec.name, chosen))]
    for key in spec.variants:
        name = f"{spec.name}-{key}"
        rows = _test_rows(name, [c.variants[key] for c in chosen])
        splits.append(Split(name, _frame(rows)))
    facts = pd.DataFrame(
        {
            "class": [c.name for c in found],
            "chosen": [c in chosen for c in found],
            "pool": [len(c.pool) for c in found],
            "test": [len(c.test) for c in found],
            "pretraining": [c.pretraining for c in found],
            **{key: [len(c.variants[key]) for c in found] for key in spec.variants},
        }
    )
    return Task(spec, [c.name for c in chosen], splits, facts)


def _main_rows(name: str, classes: list[ClassDrawings]) -> pd.DataFrame:
    rows = []
    for label, drawings in enumerate(classes):
        held_back = _validation_size(len(drawings.pool))
        pool = drawings.pool.iloc[: held_back + limits()["train"]]
        for number, row in enumerate(pool.itertuples()):
            split = "val" if number < held_back else "train"
            rows.append(_row(name, split, label, row, 0))
    rows += _test_rows(name, [c.test for c in classes])
    return _frame(rows)


def _validation_size(pool: int) -> int:
    """How many drawings of a class go to validation: what the training split can spare."""
    return min(limits()["val"], pool - limits()["min_pool"])


def _test_rows(name: str, classes: list[pd.DataFrame]) -> list[tuple]:
    classes = [drawings.iloc[: limits()["test"]] for drawings in classes]
    mean = sum(map(len, classes)) / len(classes)
    paints = 2 if mean < FEW_TEST_DRAWINGS else 1
    return [
        _row(name, "test", label, row, paint)
        for label, drawings in enumerate(classes)
        for row in drawings.itertuples()
        for paint in range(paints)
    ]


def _row(name: str, split: str, label: int, row, paint: int) -> tuple:
    return split, label, row.set, row.row, fixed_number(name, split, row.set, row.name, paint)


def _frame(rows: list[tuple]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=COLUMNS)
    order = frame.split.map({"train": 0, "val": 1, "test": 2})
    return frame.iloc[order.argsort(kind="stable")].reset_index(drop=True)
