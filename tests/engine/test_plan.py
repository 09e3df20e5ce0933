"""What is planned, and what makes a cell another cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compatbench.data.cards import SuiteCard, suite_cards, suite_tasks
from compatbench.engine.cell import Cell, CellRecord, Record
from compatbench.engine.keys import data_key
from compatbench.engine.matrix import resolve_config, select_matrix
from compatbench.engine.missing import Missing
from compatbench.engine.plan import PlannedCell, plan, plan_cells
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.method.registry import builtin_methods

REGISTRY = builtin_methods()


@pytest.fixture
def suite() -> SuiteCard:
    return suite_cards.read("smoke")


def changed(suite: SuiteCard, **values: Any) -> SuiteCard:
    return SuiteCard.model_validate(suite.model_dump() | values)


def one_cell(suite: SuiteCard, method: str = "coop", **selection: Any) -> Cell:
    [cell] = plan_cells(suite, REGISTRY, [method], **selection)
    return cell


def test_every_cell_of_the_matrix_is_planned_once() -> None:
    suite = suite_cards.read("mini")
    cells = plan_cells(suite, REGISTRY, REGISTRY.names())
    learners = [name for name in REGISTRY.names() if REGISTRY.get(name).card.learns]
    draws = len(suite.seeds) * len(suite.shots)
    others = len(REGISTRY.names()) - len(learners)
    assert len(cells) == len(suite_tasks(suite)) * (len(learners) * draws + others)
    assert len({cell.key for cell in cells}) == len(cells)


def test_a_method_that_learns_nothing_has_one_cell_whatever_seeds_are_chosen(
    suite: SuiteCard,
) -> None:
    many = changed(suite, seeds=[1, 2, 3])
    assert one_cell(many, "zeroshot").key == one_cell(many, "zeroshot", seeds=[3, 2]).key


def test_several_upgrades_of_one_source_share_one_fit(suite: SuiteCard) -> None:
    suite = changed(
        suite, upgrades=[["mini-clip", "mini-eva-clip"], ["mini-clip", "mini-eva-clip", "third"]]
    )
    assert one_cell(suite).backbones == ("mini-clip", "mini-eva-clip", "third")


def test_retraining_makes_every_target_a_source_of_its_own(suite: SuiteCard) -> None:
    three = [["mini-clip", "mini-eva-clip"], ["mini-clip", "mini-eva-clip-anew"]]
    plain = changed(suite, upgrades=three)
    retrained = changed(plain, retrained=True)
    cells = plan_cells(retrained, REGISTRY, ["coop"])
    assert [cell.backbones for cell in cells] == [
        ("mini-clip", "mini-eva-clip", "mini-eva-clip-anew"),
        ("mini-eva-clip",),
        ("mini-eva-clip-anew",),
    ]
    # The same cells as in any suite that starts there.
    assert cells[0] == one_cell(plain)
    there = changed(suite, upgrades=[["mini-eva-clip", "mini-clip"]])
    assert cells[1].key == one_cell(there).key
    matrix = select_matrix(retrained, REGISTRY, ["coop"])
    assert (len(matrix.places), matrix.retrained) == (3, 2)
    assert select_matrix(plain, REGISTRY, ["coop"]).retrained == 0


def test_a_target_that_is_a_source_anyway_is_not_retrained_twice(suite: SuiteCard) -> None:
    both = [["mini-clip", "mini-eva-clip"], ["mini-eva-clip", "mini-eva-clip-anew"]]
    cells = plan_cells(changed(suite, upgrades=both, retrained=True), REGISTRY, ["coop"])
    assert [cell.backbones for cell in cells] == [
        ("mini-clip", "mini-eva-clip"),
        ("mini-eva-clip", "mini-eva-clip-anew"),
        ("mini-eva-clip-anew",),
    ]


def test_what_learns_nothing_is_not_retrained(suite: SuiteCard) -> None:
    retrained = changed(suite, retrained=True)
    assert one_cell(retrained, "zeroshot").backbones == ("mini-clip", "mini-eva-clip")


def test_a_target_without_weights_is_not_retrained(suite: SuiteCard) -> None:
    retrained = changed(suite, retrained=True)
    missing = Missing(backbones={"mini-eva-clip": "not here"})
    assert one_cell(retrained, missing=missing).backbones == ("mini-clip",)


@pytest.mark.parametrize(
    "values",
    [
        {"shots": [2]},
        {"seeds": [2]},
        {"tasks": ["mini-animals"]},
        {"upgrades": [["mini-eva-clip", "mini-clip"]]},
        {"training": {"views": 3, "crop_scale": [0.5, 1.0], "max_steps": 20}},
        {"training": {"views": 2, "crop_scale": [0.4, 1.0], "max_steps": 20}},
        {"training": {"views": 2, "crop_scale": [0.5, 1.0], "max_steps": 21}},
        {
            "training": {
                "views": 2,
                "crop_scale": [0.5, 1.0],
                "max_steps": 20,
                "precision": "bf16",
            }
        },
        {"methods": {"coop": {"context_length": 4}}},
        {"methods": {"coop": {"recipe": {"lr": 0.1}}}},
    ],
)
def test_whatever_decides_a_module_is_part_of_its_key(
    suite: SuiteCard, values: dict[str, Any]
) -> None:
    assert one_cell(suite).key != one_cell(changed(suite, **values)).key


@pytest.mark.parametrize(
    "values",
    [
        {"title": "Another title", "note": "Another note"},
        {"methods": {"kgcoop": {"weight": 1.0}}},
        {"upgrades": [["mini-clip", "mini-clip-other"]]},
    ],
)
def test_what_does_not_decide_a_module_is_not(suite: SuiteCard, values: dict[str, Any]) -> None:
    assert one_cell(suite).key == one_cell(changed(suite, **values)).key


def test_a_suite_changes_the_parts_of_a_recipe_that_it_names(suite: SuiteCard) -> None:
    suite = changed(suite, methods={"kgcoop": {"recipe": {"lr": 0.5}}})
    recipe = resolve_config(REGISTRY.get("kgcoop"), suite)["recipe"]
    published = REGISTRY.get("kgcoop").Config().recipe  # type: ignore[attr-defined]
    assert recipe == published.model_dump(mode="json") | {"lr": 0.5}


def test_the_cap_on_steps_reaches_trained_methods_only(suite: SuiteCard) -> None:
    assert resolve_config(REGISTRY.get("coop"), suite)["max_steps"] == 20
    assert "max_steps" not in resolve_config(REGISTRY.get("linear_probe"), suite)


def test_unknown_tasks_are_refused(suite: SuiteCard) -> None:
    with pytest.raises(CompatbenchError, match="no task in this suite named 'mini-animals'"):
        plan_cells(suite, REGISTRY, ["coop"], tasks="mini-animals")


def finished(cell: Cell, **values: Any) -> CellRecord:
    records = tuple(
        Record(
            backbone=backbone,
            test_set=test_set,
            data=data_key(backbone, test_set),
            status="ok",
            correct=1,
            total=2,
            zero_shot_correct=1,
        )
        for backbone in cell.backbones
        for test_set in cell.test_sets
    )
    return CellRecord(
        key=cell.key,
        method=cell.method,
        config=cell.config,
        task=cell.task,
        source=cell.source,
        shots=cell.shots,
        seed=cell.seed,
        status="ok",
        records=records,
    ).model_copy(update=values)


def test_a_cell_is_done_when_nothing_is_missing(suite: SuiteCard, tmp_path: Path) -> None:
    cell, store = one_cell(suite), RunStore(tmp_path)
    store.write(finished(cell))
    [planned] = plan([cell], store)
    assert planned.done
    assert not planned.failed


def test_a_record_of_other_weights_or_images_is_missing(suite: SuiteCard) -> None:
    cell = one_cell(suite)
    record = finished(cell)
    stale = record.records[-1].model_copy(update={"data": "0" * 64})
    record = record.model_copy(update={"records": (*record.records[:-1], stale)})
    assert PlannedCell(cell, record).missing == [(stale.backbone, stale.test_set)]


def test_a_failed_record_is_tried_again(suite: SuiteCard, tmp_path: Path) -> None:
    cell, store = one_cell(suite), RunStore(tmp_path)
    record = finished(cell)
    first = record.records[0].model_dump(include={"backbone", "test_set", "data"})
    failed = Record(**first, status="failed", reason="no luck")
    store.write(record.model_copy(update={"records": (failed, *record.records[1:])}))
    [planned] = plan([cell], store)
    assert planned.failed
    assert not planned.done
    store.write(finished(cell, status="failed", records=()))
    [planned] = plan([cell], store)
    assert planned.failed
    assert not planned.done
