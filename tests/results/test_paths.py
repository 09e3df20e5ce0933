"""One module along a path, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_results import COOP, make_method, make_row

from compatbench.results.measures import Expected, upgrade_pairs
from compatbench.results.paths import change_per_step, changes, follow_path
from compatbench.results.store import MethodResults

PATH = ("old", "middle", "new")
EXPECTED = Expected(("cats", "dogs"), (4,), (1, 2), upgrade_pairs([PATH]))
# (backbone, task) -> images right of 100, at seed 1; two more at seed 2. Zero-shot has 40 right
# on the old model, 50 on the middle one and 60 on the new one.
RIGHT = {
    ("old", "cats"): 60,
    ("old", "dogs"): 70,
    ("middle", "cats"): 58,
    ("middle", "dogs"): 66,
    ("new", "cats"): 63,
    ("new", "dogs"): 61,
}


def along_path(leave_out: tuple[str, str] | None = None) -> MethodResults:
    rows = [
        make_row(right + 2 * (seed - 1), task=task, seed=seed, backbone=backbone)
        for (backbone, task), right in RIGHT.items()
        for seed in (1, 2)
        if (backbone, task) != leave_out
    ]
    return make_method(COOP, rows)


def test_every_step_has_its_accuracy_and_its_gain() -> None:
    steps = follow_path(along_path(), EXPECTED, PATH, 4)
    assert [step.backbone for step in steps] == list(PATH)
    accuracies = [step.accuracy.value for step in steps if step.accuracy]
    assert accuracies == pytest.approx([66, 63, 63])
    assert [step.accuracy.std for step in steps if step.accuracy] == pytest.approx([2**0.5] * 3)
    gains = [step.gain.value for step in steps if step.gain]
    assert gains == pytest.approx([26, 13, 3])
    assert changes(gains) == pytest.approx([-13, -10])
    assert change_per_step(gains) == pytest.approx(-11.5)


def test_a_missing_cell_leaves_its_step_and_the_mean_without_a_figure() -> None:
    steps = follow_path(along_path(("middle", "dogs")), EXPECTED, PATH, 4)
    assert [step.accuracy is None for step in steps] == [False, True, False]
    values = [step.gain.value if step.gain else None for step in steps]
    assert changes(values) == [None, None]
    assert change_per_step(values) is None
    assert change_per_step([1.0]) is None


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=9))
def test_the_mean_change_is_that_from_the_first_to_the_last(values: list[float]) -> None:
    found = change_per_step(values)
    assert found == pytest.approx((values[-1] - values[0]) / (len(values) - 1), abs=1e-9)
