"""Transfers: selected, planned, run from one fit, published and evaluated."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from planning import cells_of, matrix_of, request_of

from compatbench.backbone import load_backbone
from compatbench.backbone.words import WordFeatures
from compatbench.data.cards import suite_cards
from compatbench.data.draws import draw_first, draw_shots
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import load_task
from compatbench.engine.attach import Carried
from compatbench.engine.cell import Cell, CellRecord
from compatbench.engine.keys import key_cells
from compatbench.engine.missing import Missing
from compatbench.engine.plan import Plan, make_plan
from compatbench.engine.plan_data import read_data, write_data
from compatbench.engine.store import RunStore
from compatbench.engine.task_images import TaskImages
from compatbench.engine.worker import Worker, build_method
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.method import FeatureSet, Module
from compatbench.method.registry import (
    TransferRegistry,
    builtin_methods,
    builtin_transfers,
    find_transfer,
)
from compatbench.results import evaluation as evaluating
from compatbench.results.collect import rows_of

SUITE = suite_cards.read("smoke")
REGISTRY = builtin_methods()


def chosen(methods: str, *transfers: str) -> list[tuple[str, str]]:
    matrix = matrix_of(SUITE, methods, transfers=transfers or None)
    return [(choice.name, choice.transfer) for choice in matrix.choices]


def cell_of(name: str, transfer: str = "copied") -> Cell:
    [cell] = cells_of(SUITE, [name], transfers=[transfer])
    return cell


def test_modules_are_copied_unless_another_transfer_is_requested() -> None:
    both = [("taskres", "copied"), ("taskres", "words")]
    assert chosen("taskres") == both[:1]
    assert chosen("taskres", "copied", "words") == both
    assert {transfer for _, transfer in chosen("all")} == {"copied"}
    # A pattern means the methods that a transfer serves; a method that is named is measured.
    words = find_transfer("words")
    served = [name for name in REGISTRY.names() if words.serves(REGISTRY.get(name).card)]
    assert chosen("all", "words") == [(name, "words") for name in served]
    assert "cocoop" not in served  # it reads features, whose coordinates its net has learned
    assert chosen("cocoop", "words") == [("cocoop", "words")]
    # Of a suite's own transfers, those that do not take a named method are left out.
    suite = SUITE.model_copy(update={"transfers": ("copied", "ridge")})
    choices = matrix_of(suite, ["clip_lora", "taskres"]).choices
    found = sorted((choice.name, choice.transfer) for choice in choices)
    assert found == [("clip_lora", "copied"), ("taskres", "copied"), ("taskres", "ridge")]


def test_a_transfer_sees_plain_images_alone_if_its_card_says_so(worker: Worker) -> None:
    cell = cell_of("taskres")
    task = load_task(cell.task)
    training = cell.training.model_copy(update={"views": 3})
    images = TaskImages(task, training, cell.seed, worker.cache)
    model = load_backbone(cell.source)
    carried = Carried(
        build_method(cell), Module(), model, model, task.labels_for(frozenset()), images
    )

    def train(transfer: str) -> FeatureSet:
        words = WordFeatures(worker.cache.folder.parent)
        return carried.data(find_transfer(transfer), words).labels.train

    assert len(train("warm+2").views) == 3
    plain = train("gradfix+2")
    assert torch.equal(plain.views, plain.plain[None])


def test_cells_of_one_fit_have_different_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = cell_of("simpleshot")
    moved = cell_of("simpleshot", "words")
    assert moved.copied == copied
    assert moved.fit_key == copied.key == copied.fit_key != moved.key
    assert str(moved).startswith("simpleshot (words) ·")
    labels = ("copied", "words", "words+raw", "kept", "delta", "retrained+1", "retrained+2")
    cells = [cell_of("simpleshot", label) for label in labels]
    assert len({cell.key for cell in cells}) == len(labels)
    assert {cell.fit_key for cell in cells} == {copied.key}
    # The same holds for a method from a file.
    source = Path(__file__).parents[2] / "methods" / "simpleshot.py"
    path = tmp_path / "mine.py"
    path.write_text(source.read_text().replace('name="simpleshot"', 'name="mine"'))
    builtin_methods.cache_clear()
    own, carried = cells_of(SUITE, str(path), transfers=["copied", "words"])
    assert (carried.copied, carried.plugin) == (own, str(path.resolve()))
    monkeypatch.setattr("compatbench.engine.keys.words_hash", lambda: "another list")
    other = cell_of("simpleshot", "words")
    assert other.key != moved.key
    assert other.fit_key == copied.key


def test_key_contains_the_modules_of_the_other_tasks() -> None:
    tasks = ("mini-weather", "mini-food", "mini-signs")
    suite = SUITE.model_copy(update={"tasks": tasks, "retrained": True})

    def cells(**selection: object) -> dict[str, Cell]:
        found = cells_of(suite, ["simpleshot"], transfers=["module-ridge"], **selection)
        return {cell.task: cell for cell in found}

    whole = cells()
    cell = whole["mini-weather"]
    assert [(other.task, other.source) for other in cell.others] == [
        ("mini-food", "mini-clip"),
        ("mini-food", "mini-eva-clip"),
        ("mini-signs", "mini-clip"),
        ("mini-signs", "mini-eva-clip"),
    ]
    fits = {one.key for one in cells_of(suite, ["simpleshot"])}
    assert {other.key for other in cell.others} <= fits
    # The tasks are the suite's, whichever of them are requested.
    assert cells(tasks=["mini-weather"])["mini-weather"] == cell
    # Another process receives the plan as JSON.
    plan = make_plan(request_of(suite, ["simpleshot"], transfers=["module-ridge"]))
    sent = json.loads(json.dumps(write_data(plan)))
    assert read_data(Plan, sent).cells == plan.cells
    fewer = suite.model_copy(update={"tasks": ("mini-weather", "mini-food")})
    [other] = cells_of(fewer, ["simpleshot"], tasks=["mini-weather"], transfers=["module-ridge"])
    assert other.fit_key == cell.fit_key
    assert other.key != cell.key


def test_cells_without_the_images_of_another_task_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suite = SUITE.model_copy(update={"tasks": ("mini-weather", "mini-food")})
    transfers = ["copied", "module-ridge"]
    only = {"tasks": ["mini-weather"], "transfers": transfers}
    missing = Missing({}, {"mini-food": "gone"})
    cells = cells_of(suite, ["simpleshot"], missing, transfers=transfers)
    assert [(cell.task, cell.transfer) for cell in cells] == [("mini-weather", "copied")]
    # If its images are broken, the cell is, too; what plans an audit knows that already.
    torn = Missing({}, {"mini-food": "torn"}, frozenset({"mini-food"}))
    assert len(cells_of(suite, ["simpleshot"], torn, **only)) == 1
    copied, moved = key_cells(matrix_of(suite, ["simpleshot"], **only), torn)
    assert copied.broken == ""
    assert moved.broken == "transfer 'module-ridge' needs modules of 'mini-food': torn"

    def find_images(test_set: str) -> None:
        if test_set == "mini-food":
            raise CompatbenchError("gone")

    monkeypatch.setattr("compatbench.engine.missing._find_images", find_images)
    plan = make_plan(request_of(suite, ["simpleshot"], skip_missing=True, **only))
    assert [cell.transfer for cell in plan.cells] == ["copied"]
    assert plan.broken == ()
    assert plan.missing.absent == {"mini-food": "gone"}
    with pytest.raises(CompatbenchError, match="suite 'smoke' cannot run: gone"):
        make_plan(request_of(suite, ["simpleshot"], **only))
    alone = request_of(suite, ["simpleshot"], tasks=["mini-weather"], transfers=["copied"])
    assert not make_plan(alone).missing


@pytest.mark.slow
def test_modules_of_other_tasks_are_fitted_once_and_read_from_the_store(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = SUITE.model_copy(update={"tasks": ("mini-weather", "mini-food")})
    transfers = ["copied", "module-ridge"]
    copied, moved = cells_of(suite, ["simpleshot"], tasks=["mini-weather"], transfers=transfers)
    record = worker.run(moved)
    assert [outcome.status for outcome in record.records] == ["ok", "ok"]
    assert {path.stem for path in worker.store.folder.glob("modules/*/*.safetensors")} == {
        copied.key,
        *(other.key for other in moved.others),
    }
    monkeypatch.setattr(Worker, "fit", None)
    [food] = cells_of(suite, ["simpleshot"], tasks=["mini-food"], transfers=["copied"])
    assert worker.run(food).state == "ok"
    old, new = rows_of(copied, worker.run(copied), worker.store)
    same, mapped = rows_of(moved, record, worker.store)
    assert same.correct == old.correct
    assert mapped.correct != new.correct
    path = worker.store.module_path(copied.key)
    with pytest.raises(CompatbenchError, match="'module-ridge' needs modules of other tasks"):
        evaluating.evaluate(path, "mini-eva-clip", transfer="module-ridge")


@pytest.mark.slow
def test_a_failed_fit_of_another_task_fails_the_cell_and_is_named(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = SUITE.model_copy(update={"tasks": ("mini-weather", "mini-food")})
    only = {"tasks": ["mini-weather"], "transfers": ["module-ridge"]}
    [cell] = cells_of(suite, ["simpleshot"], **only)
    fit = Worker.fit

    def fit_old_models(worker: Worker, cell: Cell) -> tuple[CellRecord, Module]:
        if cell.source == "mini-eva-clip":
            raise NotTransferable("no such layer")
        return fit(worker, cell)

    monkeypatch.setattr(Worker, "fit", fit_old_models)
    old, new = worker.run(cell).records
    assert old.status == "ok"
    assert new.status == "failed"
    assert new.reason.startswith(
        "the module of 'mini-food' on 'mini-eva-clip' cannot be fitted: "
        "NotTransferable: no such layer"
    )
    # The next attempt tries the fit again.
    monkeypatch.setattr(Worker, "fit", fit)
    assert worker.run(cell).errors == []


GREEDY = """
from compatbench.method.transfer import Transfer, TransferCard

class Greedy(Transfer):
    card = TransferCard("greedy", "Greedy", "", {"unlabelled"}, "takes labels too", {"feature"})

    def attach(self, method, module, target, labels, data):
        assert len(data.unlabelled.target) == len(data.unlabelled.old.logits)
        return method.attach(method.fit(target, data.labels, data.generator()), target, labels)
"""


@pytest.mark.slow
def test_a_transfer_that_takes_more_than_its_card_declares_cannot_be_run(
    tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = TransferRegistry(dict(builtin_transfers().classes))
    for module in ("compatbench.method.registry", "compatbench.engine.matrix"):
        monkeypatch.setattr(f"{module}.builtin_transfers", lambda: fresh)
    path = tmp_path / "greedy.py"
    path.write_text(GREEDY)
    [cell] = cells_of(SUITE, ["clip_adapter"], transfers=[str(path)])
    assert (cell.transfer, cell.transfer_plugin) == ("greedy", str(path.resolve()))
    with pytest.raises(CompatbenchError, match="'greedy' uses 'labels', which its card"):
        worker.run(cell)
    with pytest.raises(CompatbenchError, match="'greedy' takes modules that act at feature; those"):
        cells_of(SUITE, ["coop"], transfers=["greedy"])
    path.write_text(GREEDY.replace("too", "as well"))
    del fresh.classes["greedy"]  # as in a worker that has not loaded it yet
    with pytest.raises(CompatbenchError, match=r"greedy.py was changed after the run had begun"):
        worker.run(cell)
    fresh.add_file(path)
    [other] = cells_of(SUITE, ["clip_adapter"], transfers=["greedy"])
    assert other.fit_key == cell.fit_key
    assert other.key != cell.key


def test_fewer_labels_are_among_more_and_sixteen_are_those_of_a_fit() -> None:
    task = load_task("mini-weather")
    few, more, most = (draw_first(task, k, seed=1) for k in (1, 4, 16))
    assert set(few.train) < set(more.train) < set(most.train)
    assert set(few.val) < set(more.val) == set(most.val)
    assert most == draw_shots(task, 16, 1)
    assert {*Counter(one.label for one in more.train).values()} == {4}


@pytest.mark.slow
def test_the_old_model_answers_for_images_and_a_method_is_trained_anew(worker: Worker) -> None:
    """Kept gives the source's row, and retrained that of a fit on the target."""

    def rows(label: str, cell: Cell | None = None) -> dict[str, tuple[int | None, int | None]]:
        cell = cell or cell_of("simpleshot", label)
        measured = rows_of(cell, worker.run(cell), worker.store)
        return {row.backbone: (row.correct, row.zero_shot_correct) for row in measured}

    (source, copied), (target, moved) = rows("copied").items()
    kept = rows("kept")
    assert (kept[source], kept[target][1]) == (copied, moved[1])
    assert kept[target][0] == copied[0] != moved[0]
    suite = SUITE.model_copy(update={"upgrades": ((target, source),), "shots": (16,)})
    [cell] = cells_of(suite, ["simpleshot"])
    assert rows("retrained+16")[target] == rows("", cell)[target]


@pytest.mark.slow
def test_a_lost_module_is_fitted_again_and_its_predictions_stay(worker: Worker) -> None:
    copied = cell_of("simpleshot")
    record = worker.run(copied)
    worker.store.module_path(copied.key).unlink()
    assert worker.run(cell_of("simpleshot", "words")).state == "ok"
    kept = worker.store.read(copied.key)
    assert kept is not None
    assert kept.records == record.records
    assert worker.store.is_done(copied, kept)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> RunStore:
    """Return the store of a run with the transfer words, and then of the copied module."""
    store = RunStore(tmp_path_factory.mktemp("transfers") / "runs")
    worker = Worker(store, FeatureCache(cache))
    worker.run(cell_of("simpleshot", "words"))
    worker.run(cell_of("simpleshot"))
    return store


@pytest.mark.slow
def test_one_fit_serves_both_and_their_records_are_apart(
    store: RunStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied_cell = cell_of("simpleshot", "copied")
    moved_cell = cell_of("simpleshot", "words")
    copied = store.read(copied_cell.key)
    moved = store.read(moved_cell.key)
    assert store.is_done(copied_cell, copied)
    assert store.is_done(moved_cell, moved)
    assert (copied.module, copied.fit_seconds) == (moved.module, moved.fit_seconds)
    [module] = store.folder.glob("modules/*/*.safetensors")
    assert module.stem == copied_cell.key
    one = {row.backbone: row for row in rows_of(copied_cell, copied, store)}
    other = {row.backbone: row for row in rows_of(moved_cell, moved, store)}
    source, target = copied_cell.backbones
    assert one[source].correct == other[source].correct
    assert one[target].correct != other[target].correct
    assert one[target].zero_shot_correct == other[target].zero_shot_correct
    # A second run, in any order, fits and measures nothing.
    monkeypatch.setattr(Worker, "_predict", None)
    worker = Worker(store, FeatureCache(cache))
    assert worker.run(moved_cell) == moved
    assert worker.run(copied_cell) == copied


@pytest.mark.slow
def test_a_saved_module_is_evaluated_through_words_and_beside_them_needs_no_source(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cell_of("simpleshot", "words")
    record = store.read(cell.key)
    path = store.module_path(cell.fit_key)
    load = evaluating.load_backbone

    def evaluate(path: Path) -> evaluating.Evaluation:
        return evaluating.evaluate(path, cell.backbones[1], transfer="words")

    def without_source(name: str, *options: str, **more: str):
        if name == cell.source:
            raise CompatbenchError(f"no weights of {name}")
        return load(name, *options, **more)

    sides = [evaluate(path).as_dict()[side] for side in ("source", "target")]
    correct = {row.backbone: row.correct for row in rows_of(cell, record, store)}
    assert {side["backbone"]: side["correct"] for side in sides} == correct
    monkeypatch.setattr(evaluating, "load_backbone", without_source)
    alone = evaluate(path)
    assert alone.source is alone.h is None
    assert alone.as_dict()["target"] == sides[1]
    # Alone in a folder, there is nothing to find the rotation from.
    lonely = tmp_path / "a" / "b" / "module.safetensors"
    lonely.parent.mkdir(parents=True)
    lonely.write_bytes(path.read_bytes())
    with pytest.raises(CompatbenchError, match="no weights of mini-clip"):
        evaluate(lonely)
