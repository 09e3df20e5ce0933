"""A module finds its classes in any order; for others it is attached again or refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planning import cells_of

import compatbench as cb
from compatbench.backbone import Labels, load_backbone
from compatbench.data.cards import suite_cards
from compatbench.data.task import Task, load_task, restrict_task
from compatbench.engine.attach import Attached, Carried
from compatbench.engine.single_module import find_labels, read_fitted
from compatbench.engine.worker import Worker, build_method
from compatbench.errors import CompatbenchError, CompatbenchWarning, NotTransferable
from compatbench.method import Module
from compatbench.results import evaluation
from compatbench.results.collect import rows_of

TARGET = "mini-clip-next"
PAIR = ("mini-clip", "mini-eva-clip")


@pytest.fixture(scope="module")
def module() -> Module:
    """Return a residual of each class weight, which is useless for another class."""
    settings = {"max_steps": 8}
    return cb.fit("taskres", task="mini-food", source="mini-clip", shots=2, config=settings)


@pytest.fixture
def task() -> Task:
    """Return the task with its classes in another order, and another name, as on another card."""
    task = load_task("mini-food")
    order = [0, *reversed(range(1, len(task.labels)))]
    other = restrict_task(task, order)
    other.card = other.card.model_copy(update={"name": "pantry"})
    other.name = "pantry"
    return other


def named(task: Task, **changes: tuple[str, ...]) -> Task:
    task.labels = replace(task.labels, **changes)  # type: ignore[arg-type]
    return task


def test_classes_are_found_by_name_in_any_order(module: Module, task: Task) -> None:
    before = cb.evaluate(module, TARGET)
    after = cb.evaluate(module, TARGET, task)
    assert after.test_set == "pantry"
    for one, other in ((before.source, after.source), (before.target, after.target)):
        assert sorted(np.bincount(one.targets)) == sorted(np.bincount(other.targets))
        assert one.accuracy == other.accuracy
        assert one.zero_shot_accuracy == other.zero_shot_accuracy
    assert before.h == after.h


def test_classes_of_one_name_keep_their_order(module: Module, task: Task) -> None:
    first, second, *others = module.about["labels"]["names"]
    twins = [first, first, *others]
    module = Module(module.trained, module.stored, dict(module.about))
    module.about["labels"] = module.about["labels"] | {"names": twins}
    names = tuple(first if name == second else name for name in task.labels.names)
    found = cb.evaluate(module, TARGET, named(task, names=names))
    assert found.images == len(task.split("test"))


def test_an_error_names_the_classes_that_do_not_match(
    module: Module, task: Task, tmp_path: Path
) -> None:
    first, *others = task.labels.names
    with pytest.raises(CompatbenchError, match=rf"lacks '{first}' and also has 'elk': give a"):
        cb.evaluate(module, TARGET, named(task, names=("elk", *others)))
    with pytest.raises(CompatbenchError, match=r"'mini-signs' lacks .* and others and also has"):
        cb.evaluate(module, TARGET, "mini-signs")


def test_templates_are_the_module_s(module: Module, task: Task) -> None:
    with pytest.warns(CompatbenchWarning, match=r"'pantry' has other templates than the module's"):
        found = cb.evaluate(module, TARGET, named(task, templates=("an ugly {}",)))
    before = cb.evaluate(module, TARGET)
    assert found.target.accuracy == before.target.accuracy
    assert found.target.zero_shot_accuracy == before.target.zero_shot_accuracy


@pytest.mark.slow
def test_a_module_works_without_its_card(module: Module, tmp_path: Path, task: Task) -> None:
    module = Module(module.trained, module.stored, module.about | {"task": "gone"})
    path = tmp_path / "gone.safetensors"
    module.save(path)
    read, fitted = read_fitted(path)
    assert read.about == module.about
    assert find_labels(path, fitted, ()) == load_task("mini-food").labels
    assert cb.port(path, TARGET).about["labels"] == module.about["labels"]
    assert cb.evaluate(path, TARGET, "mini-food").images == len(task.split("test"))


def test_old_module_file_warns_once(module: Module, task: Task) -> None:
    about = {name: value for name, value in module.about.items() if name != "labels"}
    old = Module(module.trained, module.stored, about)
    with pytest.warns(CompatbenchWarning, match="does not store its class names"):
        found = cb.evaluate(old, TARGET)
    assert found.as_dict() == cb.evaluate(module, TARGET).as_dict()
    with pytest.raises(CompatbenchError, match="not those of 'mini-signs'"):
        cb.evaluate(old, TARGET, "mini-signs")


def test_a_variant_with_some_classes_is_restricted_as_its_parent(task: Task) -> None:
    """Classes 1 and 3 of the parent, of which classes 3 and 0 are kept, in this order."""
    variant = restrict_task(task, [1, 3])
    variant.parent_labels = (1, 3)
    part = restrict_task(variant, [3, 0])
    assert part.labels.names == (task.labels.names[3],)
    assert part.parent_labels == (0,)
    images = [sample.id for sample in task.split("test") if sample.label == 3]
    assert [sample.id for sample in part.split("test")] == images
    assert {sample.label for sample in part.split("test")} == {0}


@pytest.mark.slow
def test_a_prompt_serves_new_classes_and_a_residual_does_not(worker: Worker) -> None:
    short = {"max_steps": 3}
    changes = {"upgrades": (PAIR,), "methods": {"kgcoop": short, "taskres": short}}
    suite = suite_cards.read("mini-base-to-new").model_copy(update=changes)
    names = ["zeroshot", "kgcoop", "taskres"]
    cells = cells_of(suite, names, tasks=["mini-signs"], seeds=[1], shots=[2])
    records = {cell.method: (cell, worker.run(cell)) for cell in cells}
    new = load_task("mini-signs.new")
    targets = torch.tensor([sample.label for sample in new.split("test")])
    for method in ("zeroshot", "kgcoop"):
        cell, record = records[method]
        rows = rows_of(cell, record, worker.store)
        assert [row.status for row in rows] == ["ok"] * 4
        found = {row.backbone: row for row in rows if row.test_set == "mini-signs.new"}
        module = worker.store.read_module(worker.store.read(cell.fit_key))  # type: ignore[arg-type]
        right = []
        for name in cell.backbones:
            backbone = load_backbone(name)
            features = worker.cache.features(backbone, new, new.split("test"))
            with torch.no_grad():
                logits = build_method(cell).attach(module, backbone, new.labels)(features)
            own = F.normalize(features, dim=-1) @ backbone.zero_shot(new.labels).T
            right.append(logits.argmax(-1) == targets)
            assert found[name].correct == int(right[-1].sum())
            assert found[name].zero_shot_correct == int((own.argmax(-1) == targets).sum())
        before, after = right
        assert found["mini-eva-clip"].negative_flips == int((before & ~after).sum())
    # There are as many new classes as base ones, so shapes do not show that they are others.
    assert len(new.labels) == len(load_task("mini-signs.base").labels)
    _, record = records["taskres"]
    outcomes = {(one.test_set, one.status, one.reason[:36]) for one in record.records}
    assert outcomes == {
        ("mini-signs.base", "ok", ""),
        ("mini-signs.new", "not transferable", "not applicable: the module knows the"),
    }


@pytest.mark.slow
def test_one_task_s_module_is_tested_on_others_under_the_same_key(worker: Worker) -> None:
    changes = {
        "protocol": "cross-dataset",
        "train_on": ("mini-objects",),
        "tasks": ("mini-signs",),
        "variants": (),
        "development": (),
        "upgrades": (PAIR,),
    }
    suite = suite_cards.read("mini").model_copy(update=changes)
    [crossed] = cells_of(suite, ["simpleshot"], seeds=[1])
    [zero] = cells_of(suite, ["zeroshot"])
    plain = cells_of("mini", ["simpleshot"], seeds=[1])
    assert crossed.key in {cell.key for cell in plain}
    rows = rows_of(zero, worker.run(zero), worker.store)
    sets = {row.test_set: row for row in rows if row.backbone == "mini-clip"}
    assert [*sets] == ["mini-objects", "mini-signs"]
    assert all(one.correct == one.zero_shot_correct for one in sets.values())
    assert sets["mini-signs"].total == len(load_task("mini-signs").split("test"))


def test_fewer_classes_are_tried_on_the_source_which_a_module_fits_without_a_transfer() -> None:
    @dataclass
    class Narrow:
        least: int

        def attach(self, module: object, backbone: str, labels: Labels) -> None:
            if backbone != "source":
                raise NotTransferable("another width")
            if len(labels) < self.least:
                raise NotTransferable("fewer classes")

    labels = Labels(("cat", "dog", "elk"), ("{}",), "{}")
    unused: Any = None
    for least, reason in ((0, ""), (3, "fewer classes")):
        method: Any = Narrow(least)
        source: Any = "source"
        target: Any = "target"
        carried = Carried(method, unused, source, target, labels, unused)
        attached = Attached(unused, carried, unused, unused, unused, None, 0.0)
        assert attached.keeps_classes == reason


def test_a_module_on_its_source_needs_no_teacher(
    module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "find_teacher", lambda *_: pytest.fail("no fit is asked for"))
    source = module.about["source"]
    copied = cb.evaluate(module, source, transfer="copied")
    retrained = cb.evaluate(module, source, transfer="retrained+1")
    assert copied.frame.equals(retrained.frame)
