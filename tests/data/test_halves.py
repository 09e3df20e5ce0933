"""Base and new classes: CoCoOp's halves are tasks that are drawn from the whole task."""

from __future__ import annotations

import math
from typing import Any

import pytest
from data.trees import SetUp, dassl_draw
from planning import matrix_of

from compatbench.data.cards import (
    TrainingCard,
    suite_cards,
    suite_tasks,
    suite_variants,
    task_cards,
)
from compatbench.data.draws import draw_shots
from compatbench.data.images.source import Sample
from compatbench.data.task import load_task
from compatbench.engine.keys import data_key, module_key
from compatbench.engine.method_settings import resolve_settings
from compatbench.errors import CompatbenchError
from compatbench.method.registry import builtin_methods

# Base and new classes as CoCoOp's authors count them.
PUBLISHED = {
    "imagenet": (500, 500), "caltech101": (50, 50), "oxford_pets": (19, 18),
    "stanford_cars": (98, 98), "flowers102": (51, 51), "food101": (51, 50),
    "fgvc_aircraft": (50, 50), "sun397": (199, 198), "dtd": (24, 23), "eurosat": (5, 5),
    "ucf101": (51, 50),
}  # fmt: skip


def subsample(samples: list[Sample], half: str) -> list[tuple[str, int]]:
    """Apply CoCoOp's rule: sort the labels, keep the first ⌈n/2⌉ or the rest, count from 0."""
    labels = sorted({sample.label for sample in samples})
    middle = math.ceil(len(labels) / 2)
    kept = labels[:middle] if half == "base" else labels[middle:]
    rows = []
    for sample in samples:
        if sample.label in kept:
            rows.append((sample.id, kept.index(sample.label)))
    return rows


def test_base_and_new_classes_equal_the_published_counts() -> None:
    suite = suite_cards.read("base-to-new")
    found = {}
    for task in suite_tasks(suite):
        [new] = suite_variants(suite)[task]
        base_card = task_cards.read(task)
        new_card = task_cards.read(new)
        whole = task_cards.read(task.removesuffix(".base"))
        assert base_card.classes + new_card.classes == whole.classes
        assert base_card.folders + new_card.folders == whole.folders
        found[whole.name] = (len(base_card.classes), len(new_card.classes))
    assert found == PUBLISHED


@pytest.mark.parametrize("name", ["oxford_pets", "flowers102"])
def test_halves_draw_from_the_whole_task(name: str, set_up: SetUp) -> None:
    tree = set_up(name, train=6, val=3, test=2)
    rows: dict[str, list[Sample]] = {}
    for split, listed in tree.rows.items():
        rows[split] = [Sample(*row) for row in listed]
    few, held_out = dassl_draw(rows["train"], rows["val"], 4, seed=3)
    for half in ("base", "new"):
        task = load_task(f"{name}.{half}")
        draw = draw_shots(task, 4, seed=3)
        for samples, whole in (
            (draw.train, few),
            (draw.val, held_out),
            (task.split("test"), rows["test"]),
        ):
            assert [(sample.id, sample.label) for sample in samples] == subsample(whole, half)
        assert task.card.counts == {split: len(task.split(split)) for split in rows}


def test_task_settings_of_a_suite_apply_to_its_halves() -> None:
    suite = suite_cards.read("base-to-new")
    method = builtin_methods().get("promptsrc")
    for task in ("dtd.base", "ucf101.base"):
        config = resolve_settings(method, suite, "promptsrc", task).config
        assert config["average_mean"] == 0.75
        assert config["average_std"] == 0.05
        assert config["recipe"]["epochs"] == 20
    tcp = resolve_settings(builtin_methods().get("tcp"), suite, "tcp", "dtd.base")
    assert tcp.config["template"] == "{} texture."


def test_halves_have_separate_keys() -> None:
    module_keys = set()
    data_keys = set()
    for name in ("mini-food", "mini-food.base", "mini-food.new"):
        draw = (name, 4, 1)
        module_keys.add(module_key("coop.1", {}, "mini-clip", draw, TrainingCard()))
        data_keys.add(data_key("mini-clip", name))
    assert len(module_keys) == 3
    assert len(data_keys) == 3
    suite = suite_cards.read("mini-base-to-new")
    matrix = matrix_of(suite, ["coop"], tasks="mini-food")
    assert matrix.request.tasks == ("mini-food.base",)
    assert matrix.request.test_sets["mini-food.base"] == ("mini-food.base", "mini-food.new")
    crossed = matrix_of("cross-dataset", ["coop"])
    assert crossed.request.tasks == ("imagenet",)
    assert "imagenet" not in suite_variants(crossed.suite)["imagenet"]
    alone = crossed.suite.model_copy(update={"tasks": ("imagenet",)})
    with pytest.raises(CompatbenchError, match="tests modules of 'imagenet' on other tasks; "):
        matrix_of(alone, ["coop"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("one",)}, "it has 1 class, and each half needs 2 or more"),
        ({"classes": ("a", "b", "c")}, "it has 3 classes"),
        ({"classes": ("0", "1", "2", "3")}, "its classes have numbers for names"),
        ({"parent": "mini-food", "classes": ()}, "it is a variant; name its parent, 'mini-food'"),
    ],
)
def test_task_that_cannot_be_halved_is_refused(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    card = task_cards.read("mini-food").model_copy(update=changes)
    monkeypatch.setattr("compatbench.data.cards.read_card", lambda *_: card)
    with pytest.raises(CompatbenchError, match=message):
        task_cards.read("mini-food.new")
