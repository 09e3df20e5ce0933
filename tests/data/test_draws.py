"""Few-shot draws are those of CoOp and Dassl."""

from __future__ import annotations

import random
from collections import Counter

from data.trees import dassl_draw
from hypothesis import example, given
from hypothesis import strategies as st

from compatbench.data.draws import draw_few_shot
from compatbench.data.images.source import Sample


def make_items(sizes: list[int], seed: int) -> list[Sample]:
    """Items of classes of these sizes, shuffled."""
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    random.Random(seed).shuffle(labels)
    return [Sample(f"{seed}/{i}", label) for i, label in enumerate(labels)]


SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=8)


# Dassl samples a class of exactly 16 items too: it moves the random stream.
@example([16, 25, 16, 18, 40], [9, 6, 4, 5, 7], 16, 3)
@given(SIZES, SIZES, st.integers(1, 16), st.integers(0, 2**31))
def test_any_draw_equals_dassl_s(
    sizes: list[int], val_sizes: list[int], shots: int, seed: int
) -> None:
    train, val = make_items(sizes, seed), make_items(val_sizes, seed + 1)
    before = random.getstate()
    few, held_out = draw_few_shot(train, val, shots, seed)
    assert (few, held_out) == dassl_draw(train, val, shots, seed)
    assert Counter(item.label for item in few) == Counter(
        {c: min(n, shots) for c, n in enumerate(sizes) if n}
    )
    assert len({item.id for item in (*few, *held_out)}) == len(few) + len(held_out)
    assert random.getstate() == before


def test_more_validation_items_leave_the_training_items_as_they_are() -> None:
    train, val = make_items([6, 7, 8], 3), make_items([9, 2, 6], 4)
    few, held_out = draw_few_shot(train, val, 6, 1, max_val_shots=5)
    assert few == draw_few_shot(train, val, 6, 1)[0]
    assert Counter(item.label for item in held_out) == {0: 5, 1: 2, 2: 5}
    assert len(draw_few_shot(train, val, 2, 1, max_val_shots=5)[1]) == 6  # no more than shots
    # Spare training items validate where there are no others.
    few, held_out = draw_few_shot(train := make_items([6, 3, 2], 3), None, 2, 1)
    assert few == dassl_draw(train, [], 2, 1)[0]
    assert Counter(item.label for item in held_out) == {0: 2, 1: 1}
    assert not {*few} & {*held_out}
