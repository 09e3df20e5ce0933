"""Few-shot draws are those of CoOp and Dassl for the same list and seed."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compatbench.data.draws import draw_few_shot


@dataclass(frozen=True)
class Item:
    id: int
    label: int


def make_items(sizes: list[int], seed: int) -> list[Item]:
    """Items of classes of these sizes, in an order of no meaning."""
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    random.Random(seed).shuffle(labels)
    return [Item(i, label) for i, label in enumerate(labels)]


def dassl_draw(
    train: list[Item], val: list[Item], shots: int, seed: int
) -> tuple[list[Item], list[Item]]:
    """With the global generator, as Dassl: training images first, then validation."""
    state = random.getstate()
    try:
        random.seed(seed)
        results = []
        for items, wanted in ((train, shots), (val, min(shots, 4))):
            classes = list(dict.fromkeys(item.label for item in items))
            drawn = []
            for label in classes:
                own = [item for item in items if item.label == label]
                drawn += random.sample(own, wanted) if len(own) >= wanted else own
            results.append(drawn)
        return results[0], results[1]
    finally:
        random.setstate(state)


SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=8)
DRAWS = dict(sizes=SIZES, val_sizes=SIZES, shots=st.integers(1, 16), seed=st.integers(0, 2**31))


@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_draw_equals_dassl_s(shots: int, seed: int) -> None:
    train, val = make_items([20, 25, 31, 18, 40], 7), make_items([9, 6, 12, 5, 7], 8)
    assert draw_few_shot(train, val, shots, seed) == dassl_draw(train, val, shots, seed)


@given(**DRAWS)
def test_any_draw_equals_dassl_s(
    sizes: list[int], val_sizes: list[int], shots: int, seed: int
) -> None:
    train, val = make_items(sizes, seed), make_items(val_sizes, seed + 1)
    assert draw_few_shot(train, val, shots, seed) == dassl_draw(train, val, shots, seed)


def test_a_class_with_just_enough_items_is_drawn_as_dassl_draws_it() -> None:
    """Dassl samples such a class too: it moves the random stream and shuffles the class."""
    train, val = make_items([16, 20, 16], 1), make_items([4, 9], 2)
    assert draw_few_shot(train, val, 16, 1) == dassl_draw(train, val, 16, 1)


@given(**DRAWS)
def test_every_class_gives_its_shots_or_all_it_has(
    sizes: list[int], val_sizes: list[int], shots: int, seed: int
) -> None:
    train, val = make_items(sizes, seed), make_items(val_sizes, seed + 1)
    few, held_out = draw_few_shot(train, val, shots, seed)
    assert Counter(i.label for i in few) == Counter(
        {c: min(n, shots) for c, n in enumerate(sizes) if n}
    )
    assert Counter(i.label for i in held_out) == Counter(
        {c: min(n, shots, 4) for c, n in enumerate(val_sizes) if n}
    )


@given(**DRAWS)
def test_items_come_from_their_own_split_and_only_once(
    sizes: list[int], val_sizes: list[int], shots: int, seed: int
) -> None:
    train, val = make_items(sizes, seed), make_items(val_sizes, seed + 1)
    few, held_out = draw_few_shot(train, val, shots, seed)
    assert len(set(few)) == len(few)
    assert len(set(held_out)) == len(held_out)
    assert set(few) <= set(train)
    assert set(held_out) <= set(val)


@given(**DRAWS)
def test_classes_come_in_the_order_of_their_first_item(
    sizes: list[int], val_sizes: list[int], shots: int, seed: int
) -> None:
    train = make_items(sizes, seed)
    few, _ = draw_few_shot(train, [], shots, seed)
    assert list(dict.fromkeys(i.label for i in few)) == list(dict.fromkeys(i.label for i in train))
    labels = [item.label for item in few]
    assert sum(a != b for a, b in itertools.pairwise(labels)) == max(len(set(labels)) - 1, 0)


def test_a_seed_decides_the_draw_and_another_changes_it() -> None:
    train, val = make_items([30] * 6, 1), make_items([10] * 6, 2)
    assert draw_few_shot(train, val, 4, 1) == draw_few_shot(train, val, 4, 1)
    assert draw_few_shot(train, val, 4, 1)[0] != draw_few_shot(train, val, 4, 2)[0]
    assert draw_few_shot(train, val, 4, 1)[1] != draw_few_shot(train, val, 4, 2)[1]


def test_the_global_generator_is_left_alone() -> None:
    random.seed(5)
    before = random.getstate()
    draw_few_shot(make_items([9, 9], 1), make_items([9, 9], 2), 4, 1)
    assert random.getstate() == before


def test_the_lists_are_left_as_they_were() -> None:
    train, val = make_items([9, 9], 1), make_items([9, 9], 2)
    before = list(train), list(val)
    draw_few_shot(train, val, 4, 1)
    assert (train, val) == before


def test_nothing_can_be_drawn_from_nothing() -> None:
    assert draw_few_shot([], [], 4, 1) == ([], [])
