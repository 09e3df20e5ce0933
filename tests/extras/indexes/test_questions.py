"""Do all vectors come from one model, and did a new runtime change them? Simulated answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import invoke, output_of

import compatbench as cb
from compatbench.errors import CompatbenchError
from compatbench.extras.indexes import questions

WIDTH = 64
ITEMS = 1200
SEEDS = range(8)
Encode = Callable[[np.ndarray], np.ndarray]


def make_items(generator: np.random.Generator, kinds: int = 1) -> np.ndarray:
    """Items with 24 properties, of some kinds that lie apart."""
    properties = generator.standard_normal((ITEMS, 24))
    if kinds == 1:
        return properties
    centres = 3 * generator.standard_normal((kinds, 24))
    return 0.7 * properties + centres[generator.integers(0, kinds, ITEMS)]


def make_model(generator: np.random.Generator, offset: float = 3.0) -> Encode:
    """A model with its own axes, and vectors around its own mean."""
    axes = generator.standard_normal((24, WIDTH)) * np.linspace(2, 0.3, 24)[:, None]
    mean = offset * generator.standard_normal(WIDTH)

    def encode(items: np.ndarray) -> np.ndarray:
        noise = 0.3 * generator.standard_normal((len(items), WIDTH))
        return items @ axes + mean + noise

    return encode


def of_another_model(seed: int) -> np.ndarray:
    """Return the vectors of the items of a plain world by another model."""
    generator = np.random.default_rng(seed)
    make_model(generator)
    items = make_items(generator)
    return make_model(np.random.default_rng(seed + 100))(items)


def of_one_model(seed: int, world: str) -> np.ndarray:
    generator = np.random.default_rng(seed)
    encode = make_model(generator, offset=0 if world == "centred" else 3)
    vectors = encode(make_items(generator, kinds=4 if world == "kinds" else 1))
    if world == "images and texts":  # which lie in two cones
        vectors[: ITEMS // 2] += 25 * generator.standard_normal(WIDTH)
    return vectors


def of_two_models(seed: int, world: str) -> np.ndarray:
    generator = np.random.default_rng(seed)
    offset = 0 if world == "centred" else 3
    models = [make_model(generator, offset) for _ in range(2)]
    items = make_items(generator, kinds=4 if world == "kinds" else 1)
    first = ITEMS // 5 if world == "a fifth" else ITEMS // 2
    vectors = np.concatenate([models[0](items[first:]), models[1](items[:first])])
    return generator.permutation(vectors)


@pytest.mark.parametrize("world", ["plain", "centred", "kinds", "images and texts"])
def test_one_model_is_never_taken_for_two(world: str) -> None:
    """Over these 32 tables of one model, and over 160 others, there was no false alarm."""
    answers = Counter(cb.check_one_model(of_one_model(seed, world)).answer for seed in SEEDS)
    assert answers["no"] == 0
    # Rows without close neighbours can leave it undecided where there are kinds of item.
    assert world == "kinds" or answers["yes"] >= len(SEEDS) - 1


@pytest.mark.parametrize("world", ["plain", "centred", "kinds", "a fifth"])
def test_two_models_of_equal_width_in_one_table_are_noticed(world: str) -> None:
    answers = Counter(cb.check_one_model(of_two_models(seed, world)).answer for seed in SEEDS)
    assert answers["yes"] == 0
    assert answers["no"] >= (4 if world == "kinds" else len(SEEDS) - 1)


def test_shares_of_both_models_are_shown() -> None:
    found = cb.check_one_model(of_two_models(1, "a fifth"))
    assert found.answer == "no"
    # Some rows have no close neighbour, and so are in neither group.
    assert found.shares == pytest.approx((0.8, 0.2), abs=0.12)
    assert "the vectors form 2 groups" in str(found)


def test_too_few_rows_and_vectors_without_axes_decide_nothing() -> None:
    few = cb.check_one_model(of_one_model(1, "plain")[:150])
    assert few.answer == "cannot tell"
    assert "150 rows are too few" in str(few)
    one = cb.check_one_model(of_one_model(1, "plain")[:1])
    assert "1 row is too few" in str(one)
    # All axes are equal around two means: one model with two kinds of item, or two models?
    generator = np.random.default_rng(1)
    means = 3 * generator.standard_normal((2, WIDTH))
    noise = generator.standard_normal((ITEMS, WIDTH))
    found = cb.check_one_model(np.repeat(means, ITEMS // 2, axis=0) + noise)
    assert found.answer == "cannot tell"


@pytest.mark.parametrize(
    ("change", "answer"),
    [("float16", "no"), ("noise", "yes"), ("another model", "yes")],
)
def test_a_new_runtime_is_judged_by_what_a_search_finds(change: str, answer: str) -> None:
    """Over 8 simulated tables in half precision, there is no false alarm."""
    for seed in SEEDS:
        stored = of_one_model(seed, "plain")
        generator = np.random.default_rng(seed)
        if change == "float16":
            again = stored.astype(np.float16).astype(np.float32)
        elif change == "noise":
            again = stored + 0.5 * generator.standard_normal(stored.shape)
        else:
            again = of_another_model(seed)
        found = cb.check_runtime(stored, again)
        assert found.answer == answer
        assert found.lowest_cosine <= found.median_cosine


def test_rows_that_do_not_belong_together_are_no_new_runtime() -> None:
    stored = of_one_model(1, "plain")
    with pytest.raises(CompatbenchError, match="are shifted by one row"):
        cb.check_runtime(stored[1:], stored[:-1])
    with pytest.raises(CompatbenchError, match="do not contain the same items in the same order"):
        cb.check_runtime(stored, stored[::-1])


def test_few_items_decide_nothing_about_a_runtime() -> None:
    stored = of_one_model(1, "plain")
    found = cb.check_runtime(stored[:30], stored[:30])
    assert found.answer == "cannot tell"
    assert "30 items are too few" in str(found)
    with pytest.raises(CompatbenchError, match="give at least 50 items"):
        cb.check_runtime(stored[:5], stored[:5])
    with pytest.raises(CompatbenchError, match="has width 64"):
        cb.check_runtime(stored, stored[:, :32])


def test_same_results_equal_the_naive_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "TIE", 0.0)
    generator = np.random.default_rng(2)
    old = generator.standard_normal((60, 8))
    new = old + 0.3 * generator.standard_normal(old.shape)
    expected = []
    for item in range(60):
        others = [other for other in range(60) if other != item]
        by_old = sorted(others, key=lambda other: -old[item] @ old[other])[:10]
        by_new = sorted(others, key=lambda other: -new[item] @ old[other])[:10]
        expected.append(len({*by_old} & {*by_new}) / 10)
    np.testing.assert_allclose(questions._same_results(old, new), expected)


def test_commands_answer_both_questions(tmp_path: Path) -> None:
    one = tmp_path / "one.npy"
    two = tmp_path / "two.npy"
    np.save(one, of_one_model(1, "plain"))
    np.save(two, of_two_models(1, "plain"))
    other = tmp_path / "other.npy"
    np.save(other, of_another_model(1))
    assert output_of("index one-model", one).startswith("Yes: ")
    mixed = invoke("index one-model", two, "--json")
    assert mixed.exit_code == 1
    assert json.loads(mixed.stdout)["answer"] == "no"
    assert output_of("index runtime", one, one).startswith("No: ")
    assert invoke("index runtime", one, other).exit_code == 1
