"""Rows of earlier runs in ``results/``: find those that no longer hold, before any work.

A row holds as long as this checkout would give it the same key and the same hash of weights and
images. Rows that cannot be compared, because their weights or images are missing here, are kept:
another machine measured them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pandas as pd

from compatbench.data.cards import suite_variants
from compatbench.engine.cell import Cell, shorten_key
from compatbench.engine.keys import InputHashes, key_cells
from compatbench.engine.matrix import build_matrix
from compatbench.engine.missing import Missing, find_missing
from compatbench.engine.plan import Plan, find_teachers
from compatbench.method.registry import known_transfer

COLUMNS = (
    "key",
    "data",
    "transfer",
    "source",
    "backbone",
    "task",
    "test_set",
    "shots",
    "seed",
)
RowKey = tuple[str, str, str]  # method, key of the cell, and hash of weights and test set


def find_outdated_rows(plan: Plan, stored: Mapping[str, pd.DataFrame]) -> frozenset[RowKey]:
    """Return the stored rows of the plan's methods that no longer hold.

    Args:
        stored: the rows of ``results/<suite>/`` by method.
    """
    planned = _list_hashes(plan.cells)
    missing: Missing | None = None
    hashes = InputHashes()
    outdated: set[RowKey] = set()
    for name in dict.fromkeys(cell.name for cell in (*plan.cells, *plan.broken)):
        if name not in stored:
            continue
        rows = stored[name]
        pairs = zip(rows["key"], rows["data"], strict=True)
        others = rows.loc[[pair not in planned for pair in pairs]]
        if others.empty:
            continue
        if missing is None:
            teachers = find_teachers(plan.suite, plan.methods)
            missing = find_missing(plan.suite, teachers=teachers)
        outdated.update(_find_outdated(plan, name, others, missing, hashes))
    return frozenset(outdated)


def _find_outdated(
    plan: Plan, name: str, rows: pd.DataFrame, missing: Missing, hashes: InputHashes
) -> Iterable[RowKey]:
    """Yield the rows of one method, none of them of the plan's own cells, that no longer hold."""
    if missing.backbones.keys() & find_teachers(plan.suite, [name]):
        return  # another machine has the teacher
    cells = _plan_rows(plan, name, rows, missing, hashes)
    current = _list_hashes(cells)
    # Rows that were measured before their images broke still hold.
    unreadable = set()
    for cell in cells:
        if cell.broken:
            for test_set in cell.test_sets:
                unreadable.add((cell.task, test_set, cell.shots, cell.seed))
    for row in rows[list(COLUMNS)].itertuples(index=False, name=None):
        key, data, transfer, source, backbone, task, test_set, shots, seed = row
        if backbone in missing.backbones or source in missing.backbones:
            continue
        if task in missing.test_sets or test_set in missing.test_sets:
            continue
        if known_transfer(transfer) is None:  # from a file that this run was not given
            continue
        unreadable_here = (task, test_set, shots, seed) in unreadable
        if (key, data) not in current and not unreadable_here:
            yield name, key, data


def _plan_rows(
    plan: Plan, name: str, rows: pd.DataFrame, missing: Missing, hashes: InputHashes
) -> list[Cell]:
    """Return the cells of the suite that these rows could be of, with their keys.

    Rows may be of shots, seeds and transfers beside the suite's.
    """
    transfers = [label for label in sorted(set(rows["transfer"])) if known_transfer(label)]
    if not transfers:
        return []
    test_sets = {}
    for task, variants in suite_variants(plan.suite).items():
        test_sets[task] = (task, *variants)
    request = replace(
        plan.request,
        methods=(name,),
        named_methods=frozenset([name]),
        test_sets=test_sets,
        shots=tuple(sorted({int(number) for number in rows["shots"]})),
        seeds=tuple(sorted({int(number) for number in rows["seed"]})),
        transfers=tuple(transfers),
    )
    return key_cells(build_matrix(request), missing, hashes)


def _list_hashes(cells: Iterable[Cell]) -> set[tuple[str, str]]:
    """Return the key of each cell with the hash of each of its places, as rows have them."""
    hashes = set()
    for cell in cells:
        for _, _, data in cell.places:
            hashes.add((shorten_key(cell.key), shorten_key(data)))
    return hashes
