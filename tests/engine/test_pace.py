"""The expected time of cells: from finished cells, or guessed before any has finished."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from planning import matrix_of

from compatbench.data.cards import suite_cards
from compatbench.engine.cell import Cell, shorten_key
from compatbench.engine.matrix import Matrix
from compatbench.engine.pace import guess_cost
from compatbench.engine.plan import Plan, make_plan
from compatbench.engine.request import make_request

SMOKE = suite_cards.read("smoke")
HEADER = "method,key,backbone,test_set,fit_seconds,evaluate_seconds,peak_memory"


def plan_of(out: Path, methods: str = "coop,gda", **selection: Any) -> Plan:
    return make_plan(make_request("mini", methods, tasks="mini-food", out=out, **selection))


def write_costs(plan: Plan, out: Path, took: dict[str, tuple[float, float]]) -> None:
    """Write costs with the seconds of a fit, and of predicting on each of two backbones."""
    folder = out / "results" / "mini"
    folder.mkdir(parents=True)
    lines = [HEADER]
    for cell in plan.cells:
        if cell.name in took:
            fit, evaluation = took[cell.name]
            key = shorten_key(cell.key)
            for backbone in cell.backbones[:2]:
                lines.append(f"{cell.name},{key},{backbone},mini-food,{fit},{evaluation},")
    lines.append("lost,0123456789abcdef,mini-clip,mini-food,,1.0,")  # the record of its fit
    (folder / "costs.csv").write_text("\n".join(lines))


def seconds_of(plan: Plan) -> dict[str, float]:
    return {cell.name: plan.pace.seconds(cell) for cell in plan.cells}


def test_cells_are_expected_to_take_as_long_as_in_results(tmp_path: Path) -> None:
    first = plan_of(tmp_path / "new", seeds=[1])
    write_costs(first, tmp_path, {"coop": (400.0, 3.0), "gda": (0.5, 0.5)})
    plan = plan_of(tmp_path, seeds=[1])
    expected = {"coop": 406.0, "gda": 1.5}
    assert seconds_of(plan) == pytest.approx(expected)
    assert plan.seconds == pytest.approx(407.5)
    assert plan.unknown == []
    # A machine on which one cell took twice as long is expected to be as slow at all others.
    [slow] = [cell.key for cell in plan.cells if cell.name == "gda"]
    plan.states.update({slow: (True, False, 3.0)})
    assert seconds_of(plan) == pytest.approx(expected)
    del vars(plan)["pace"]
    assert seconds_of(plan) == pytest.approx({"coop": 812.0, "gda": 3.0})


def test_finished_cells_give_the_pace_of_their_method(tmp_path: Path) -> None:
    first = plan_of(tmp_path / "new", seeds=[1])
    write_costs(first, tmp_path, {"coop": (400.0, 3.0)})
    plan = plan_of(tmp_path, seeds=[1, 2])
    # Another seed takes as long; the time of a method that has never run is not known.
    assert [plan.pace.seconds(c) for c in plan.cells if c.name == "coop"] == [406.0, 406.0]
    assert plan.unknown == ["gda"]
    assert plan.seconds == pytest.approx(812.0)
    seconds = plan.frame.set_index("method")["seconds"]
    assert seconds["coop"] == pytest.approx(812.0)
    assert math.isnan(seconds["gda"])
    # For the order of cells it counts all the same, as much less.
    assert 0 < seconds_of(plan)["gda"] < seconds_of(plan)["coop"]


def guess(matrix: Matrix) -> dict[str, float]:
    function = guess_cost(matrix)
    return {f"{cell.name} {cell.transfer}": function(cell) for cell in matrix.cells}


def test_a_guess_counts_steps_and_the_towers_they_run_through() -> None:
    training = SMOKE.training.model_dump() | {"max_steps": 40}
    longer = SMOKE.model_copy(update={"training": type(SMOKE.training)(**training)})
    methods = ("zeroshot", "taskres", "coop", "maple")
    short = guess(matrix_of(SMOKE, methods))
    assert sorted(short, key=short.__getitem__) == [f"{name} copied" for name in methods]
    long = guess(matrix_of(longer, methods))
    predicting = short["zeroshot copied"]
    assert long["coop copied"] - predicting == pytest.approx(
        2 * (short["coop copied"] - predicting)
    )


def test_transfers_with_labels_are_guessed_as_fits_on_every_target() -> None:
    labels = ("copied", "words", "retrained+4", "module-ridge")
    costs = guess(matrix_of(SMOKE, "coop", transfers=labels))
    assert costs["coop words"] < costs["coop copied"] / 2 < costs["coop retrained+4"]
    assert costs["coop words"] < costs["coop copied"] / 2 < costs["coop module-ridge"]


def test_shards_are_the_same_however_far_other_jobs_are(tmp_path: Path) -> None:
    def shards(out: Path) -> list[set[str]]:
        keys = []
        for shard in ("1/2", "2/2"):
            plan = plan_of(out, seeds=[1, 2], shard=shard)
            keys.append({cell.key for cell in plan.mine})
        return keys

    before = shards(tmp_path)
    write_costs(plan_of(tmp_path), tmp_path, {"coop": (400.0, 3.0), "gda": (0.5, 0.5)})
    assert shards(tmp_path) == before
    cells: list[Cell] = list(plan_of(tmp_path, seeds=[1, 2]).cells)
    assert set.union(*before) == {cell.key for cell in cells}
