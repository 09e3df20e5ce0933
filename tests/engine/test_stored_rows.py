"""Rows of earlier runs: a plan keeps those that hold, and those that cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from planning import cells_of

from compatbench.data.cards import suite_cards
from compatbench.engine.cell import Cell, shorten_key
from compatbench.engine.missing import Missing
from compatbench.engine.plan import make_plan
from compatbench.engine.request import make_request
from compatbench.engine.stored_rows import find_outdated_rows

SMOKE = suite_cards.read("smoke")


def rows_of(*cells: Cell) -> pd.DataFrame:
    rows = []
    for cell in cells:
        for backbone, test_set, data in cell.places:
            row = {
                "method": cell.name,
                "key": shorten_key(cell.key),
                "data": shorten_key(data),
                "transfer": cell.transfer,
                "source": cell.source,
                "backbone": backbone,
                "task": cell.task,
                "test_set": test_set,
                "shots": cell.shots,
                "seed": cell.seed,
            }
            rows.append(row)
    return pd.DataFrame(rows).astype({"shots": "Int64", "seed": "Int64"})


def test_rows_hold_as_long_as_their_keys_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(make_request(SMOKE, "coop", out=tmp_path))
    [planned] = cells_of(SMOKE, ["coop"])
    [other_seed] = cells_of(SMOKE, ["coop"], seeds=[7])
    [moved] = cells_of(SMOKE, ["coop"], transfers=["words"])
    changed = replace(other_seed, key="0" * 64)
    unknown = replace(moved, key="1" * 64, transfer="from-a-file-elsewhere")
    stored = {"coop": rows_of(planned, other_seed, moved, changed, unknown)}
    outdated = find_outdated_rows(plan, stored)
    assert {(method, key) for method, key, _ in outdated} == {("coop", "0" * 16)}
    assert len(outdated) == len(changed.places)
    # Rows of methods that the plan does not have are not looked at.
    assert find_outdated_rows(plan, {"kgcoop": stored["coop"]}) == frozenset()
    # Another machine has the target, whose rows cannot be compared here.
    target = planned.backbones[1]
    missing = Missing({target: "it is not here"})
    monkeypatch.setattr(
        "compatbench.engine.stored_rows.find_missing", lambda suite, teachers: missing
    )
    [(_, _, data)] = find_outdated_rows(plan, stored)
    assert data == shorten_key(planned.places[0][2])
