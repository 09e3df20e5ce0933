"""docs/recipes.md: how suite paper runs each method, why it differs, what authors' files say."""

from __future__ import annotations

import pytest
from recipes_page import SUITE, PublishedRecipe, Setting, compare, problems, read_recipes

from compatbench.data.cards import suite_cards
from compatbench.method.registry import builtin_methods

PAPER = suite_cards.read(SUITE)
RECIPES = read_recipes()


@pytest.mark.parametrize("name", RECIPES)
def test_each_deviation_has_a_reason_and_each_reason_a_deviation(name: str) -> None:
    assert RECIPES[name].method == name
    assert [*problems(compare(RECIPES[name], PAPER, builtin_methods()))] == []


def _coop(**setting: object) -> list[str]:
    values = {"name": "epochs", "field": "recipe.lr", "source": "file", "published": 0.002}
    recipe = PublishedRecipe(
        method="coop", repository="", settings=(Setting.model_validate(values | setting),)
    )
    return [*problems(compare(recipe, PAPER, builtin_methods()))]


def test_problems_are_told_by_task() -> None:
    assert _coop() == []
    assert _coop(published={"*": 0.002, "dtd,eurosat": 0.1}) == [
        f"epochs on {task}: published 0.1, ours 0.002, and no reason" for task in ("dtd", "eurosat")
    ]
    assert _coop(published={"*": 0.002, "dtd": 0.1}, deviation={"dtd": "why"}) == []
    assert _coop(deviation={"dtd": "why"}) == [
        "epochs on dtd: ours is as published; drop the reason"
    ]
    words = {"field": "", "published": "fp16", "ours": {"imagenet": "fp32"}}
    assert _coop(**words) == ["epochs on imagenet: published 'fp16', ours 'fp32', and no reason"]
