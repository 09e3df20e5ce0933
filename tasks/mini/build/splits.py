"""Makes the splits of the tasks out of the drawings of their classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from . import duplicates
from .classes import ClassDrawings, Finder, TaskSpec, family, fixed_number, limits
from .render import load_drawings

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


def make_task(work: Path, spec: TaskSpec, finder: Finder, most_classes: int | None = None) -> Task:
    """Chooses a task's classes, by default as many as tasks.yaml allows, and makes its splits.

    Drawings are dealt to both sides at random, design by design. Classes with too few drawings
    on a side are left out; of the others, those with the most drawings stay. No model has a say.
    """
    bounds = limits()
    found = [finder.find(spec, name) for name in spec.classes]
    sides = _deal(work, spec, found)
    eligible = [
        c
        for c, (pool, test) in zip(found, sides, strict=True)
        if len(pool) >= bounds["min_train"] + bounds["val"]
        and len(test) >= bounds["min_test"]
        and all(len(v) for v in c.variants.values())
        and c.pretraining >= bounds["min_pretraining"]
    ]
    eligible.sort(key=lambda c: (-len(c.drawings), c.name))
    chosen = sorted(eligible[: most_classes or bounds["classes"]], key=lambda c: c.name)
    by_name = {c.name: side for c, side in zip(found, sides, strict=True)}
    rows = []
    for label, c in enumerate(chosen):
        pool = by_name[c.name][0].iloc[: bounds["val"] + bounds["train"]]
        for number, row in enumerate(pool.itertuples()):
            split = "val" if number < bounds["val"] else "train"
            rows.append(_row(spec.name, split, label, row, 0))
    rows += _test_rows(spec.name, [by_name[c.name][1] for c in chosen])
    splits = [Split(spec.name, _frame(rows))]
    for key in spec.variants:
        name = f"{spec.name}-{key}"
        splits.append(Split(name, _frame(_test_rows(name, [c.variants[key] for c in chosen]))))
    facts = pd.DataFrame(
        {
            "class": [c.name for c in found],
            "chosen": [c in chosen for c in found],
            "pool": [len(pool) for pool, _ in sides],
            "test": [len(test) for _, test in sides],
            "pretraining": [c.pretraining for c in found],
            **{key: [len(c.variants[key]) for c in found] for key in spec.variants},
        }
    )
    return Task(spec, [c.name for c in chosen], splits, facts)


def _deal(
    work: Path, spec: TaskSpec, found: list[ClassDrawings]
) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Parts the drawings of each class into a pool, for training and validation, and a test side.

    Drawings of one design, and drawings that are nearly the same, stay on one side in the whole
    task. So do those whose family has sets in a variant: their side is the test's.
    """
    table = pd.concat([c.drawings.assign(label=i) for i, c in enumerate(found)], ignore_index=True)
    groups = pd.Series(_joined(work, table), index=table.index)
    elsewhere = {family(s) for source in spec.variants.values() for s in source.sets}
    bound = table.set.map(lambda s: family(s) in elsewhere)
    side: dict[int, str] = dict.fromkeys(groups[bound], "test")
    needed = limits()["min_train"] + limits()["val"]
    for label in range(len(found)):
        own = groups[table.label == label].value_counts()
        order = sorted(
            own.index, key=lambda g: fixed_number(spec.name, table.design[groups == g].min())
        )
        size = sum(own[g] for g in order if side.get(g) == "test")
        wanted = min(limits()["test"], len(table[table.label == label]) // 3)
        for group in order:
            if group not in side:
                fits = size < wanted and size + own[group] <= wanted + 2
                side[group] = "test" if fits else "pool"
                size += own[group] * fits
        # Whole groups may leave the test side short: the smallest others fill it.
        for group in sorted((g for g in own.index if side[g] == "pool"), key=lambda g: own[g]):
            if size >= limits()["min_test"] or own.sum() - size - own[group] < needed:
                break
            side[group], size = "test", size + own[group]
    table["side"] = groups.map(side)
    return [
        tuple(
            c.drawings[(table.side[table.label == i] == part).to_numpy()]
            for part in ("pool", "test")
        )
        for i, c in enumerate(found)
    ]


def _joined(work: Path, table: pd.DataFrame) -> np.ndarray:
    """Numbers of the groups that stay on one side: equal designs, or nearly the same pixels."""
    prints = duplicates.fingerprints(load_drawings(work, table))
    near = (prints @ prints.T > duplicates.NEARLY_SAME).nonzero().numpy()
    design = pd.factorize(table.design)[0]
    first = pd.Series(range(len(table))).groupby(design).transform("first")
    a = np.concatenate([near[:, 0], np.arange(len(table))])
    b = np.concatenate([near[:, 1], first])
    return connected_components(coo_matrix((np.ones(len(a)), (a, b)), (len(table),) * 2))[1]


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
