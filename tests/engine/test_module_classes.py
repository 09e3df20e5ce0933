"""A module knows its classes: whatever the order, the name or the templates of a task's card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import compatbench as cb
from compatbench.data.task import Task, load_task, restrict_task
from compatbench.engine.single_module import find_labels, read_fitted
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.method import Module

TARGET = "mini-clip-next"


@pytest.fixture(scope="module")
def module() -> Module:
    """A residual of each class weight, which is worth nothing beside another class."""
    settings = {"max_steps": 8}
    return cb.fit("taskres", task="mini-food", source="mini-clip", shots=2, config=settings)


@pytest.fixture
def task() -> Task:
    """The task with its classes in another order, and another name, as on another card."""
    task = load_task("mini-food")
    other = restrict_task(task, [*range(1, len(task.labels)), 0][::-1])
    other.card, other.name = other.card.model_copy(update={"name": "pantry"}), "pantry"
    return other


def named(task: Task, **changes: tuple[str, ...]) -> Task:
    task.labels = replace(task.labels, **changes)  # type: ignore[arg-type]
    return task


def test_classes_are_found_by_name_in_any_order(module: Module, task: Task) -> None:
    before, after = cb.evaluate(module, TARGET), cb.evaluate(module, TARGET, task)
    assert after.test_set == "pantry"
    for one, other in ((before.source, after.source), (before.target, after.target)):
        assert one is not None
        assert other is not None
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


def test_what_does_not_match_is_named(module: Module, task: Task, tmp_path: Path) -> None:
    first, *others = task.labels.names
    with pytest.raises(CompatbenchError, match=rf"lacks '{first}' and also has 'elk': give a"):
        cb.evaluate(module, TARGET, named(task, names=("elk", *others)))
    with pytest.raises(CompatbenchError, match=r"'mini-signs' lacks .* and others and also has"):
        cb.evaluate(module, TARGET, "mini-signs")


def test_templates_are_the_module_s(module: Module, task: Task) -> None:
    with pytest.warns(CompatbenchWarning, match=r"'pantry' has other templates than the module's"):
        found = cb.evaluate(module, TARGET, named(task, templates=("an ugly {}",)))
    before = cb.evaluate(module, TARGET)
    assert found.target is not None
    assert before.target is not None
    assert found.target.accuracy == before.target.accuracy
    assert found.target.zero_shot_accuracy == before.target.zero_shot_accuracy


def test_a_module_works_without_its_card(module: Module, tmp_path: Path, task: Task) -> None:
    module = Module(module.trained, module.stored, module.about | {"task": "gone"})
    path = tmp_path / "gone.safetensors"
    module.save(path)
    read, fitted = read_fitted(path)
    assert read.about == module.about
    assert find_labels(path, fitted, ()) == load_task("mini-food").labels
    assert cb.port(path, TARGET).about["labels"] == module.about["labels"]
    assert cb.predict(path, TARGET).images == 0
    assert cb.evaluate(path, TARGET, "mini-food").images == len(task.split("test"))


def test_a_file_of_old_is_read_with_a_line(module: Module, task: Task) -> None:
    about = {name: value for name, value in module.about.items() if name != "labels"}
    old = Module(module.trained, module.stored, about)
    with pytest.warns(CompatbenchWarning, match="as files of old, does not name its classes"):
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
