"""A task as fits and predictions see it."""

from __future__ import annotations

import pytest

from compatbench.data.task import Task, load_task
from compatbench.engine.task_images import hide_labels


def labels(task: Task, split: str) -> set[int]:
    return {sample.label for sample in task.split(split)}


@pytest.mark.parametrize("name", ["mini-food", "mini-food.base"])
def test_fits_and_predictions_see_no_label_of_a_test_image(name: str) -> None:
    task = load_task(name)
    before = labels(task, "test")
    hidden = hide_labels(task)
    assert labels(hidden, "test") == {-1}
    assert labels(hidden, "train") == labels(task, "train")
    assert labels(task, "test") == before != {-1}
