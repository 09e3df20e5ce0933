"""Few-shot draws equal those of CoOp and Dassl."""

from __future__ import annotations

import random
from collections import Counter

from data.trees import dassl_draw
from hypothesis import example, given
from hypothesis import strategies as st

from compatbench.data.draws import draw_few_shot
from compatbench.data.images.source import Sample


def make_items(sizes: list[int], seed: int) -> list[Sample]:
    """Return shuffled items of classes of these sizes."""
    labels = []
    for label, size in enumerate(sizes):
        labels += [label] * size
    random.Random(seed).shuffle(labels)
    return [Sample(f"{seed}/{i}", label) for i, label in enumerate(labels)]


SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=8)


# Dassl samples a class of exactly 16 items too: it moves the random stream.
@example([16, 25, 16, 18, 40], [9, 6, 4, 5, 7], 16, 3)
@given(SIZES, SIZES, st.integers(1, 16), st.integers(0, 2**31))
def test_draws_equal_those_of_dassl(
    sizes: list[int], val_sizes: list[int], shots: int, seed: int
) -> None:
    train = make_items(sizes, seed)
    val = make_items(val_sizes, seed + 1)
    before = random.getstate()
    few, held_out = draw_few_shot(train, val, shots, seed)
    assert (few, held_out) == dassl_draw(train, val, shots, seed)
    drawn = Counter(item.label for item in few)
    for label, size in enumerate(sizes):
        assert drawn[label] == min(size, shots)
    distinct = {item.id for item in (*few, *held_out)}
    assert len(distinct) == len(few) + len(held_out)
    assert random.getstate() == before


def test_more_validation_items_do_not_change_training_items() -> None:
    train = make_items([6, 7, 8], 3)
    val = make_items([9, 2, 6], 4)
    few, held_out = draw_few_shot(train, val, 6, 1, max_val_shots=5)
    assert few == draw_few_shot(train, val, 6, 1)[0]
    assert Counter(item.label for item in held_out) == {0: 5, 1: 2, 2: 5}
    _, held_out = draw_few_shot(train, val, 2, 1, max_val_shots=5)
    assert len(held_out) == 6  # two of each class: no more than shots
    # Without validation items, spare training items are used.
    train = make_items([6, 3, 2], 3)
    few, held_out = draw_few_shot(train, None, 2, 1)
    assert few == dassl_draw(train, [], 2, 1)[0]
    assert Counter(item.label for item in held_out) == {0: 2, 1: 1}
    assert not {*few} & {*held_out}
