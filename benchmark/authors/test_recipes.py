"""What our recipes say of the authors' files, beside these files."""

from __future__ import annotations

from dataclasses import replace

import pytest
from checkout import Checkout
from configurations import list_read, read_published
from recipes_page import SUITE, PublishedRecipe, read_recipes

from compatbench.data.cards import suite_cards


def mark(name: str, recipe: PublishedRecipe) -> object:
    repository = recipe.files.get("repository", {"*": recipe.repository})["*"]
    return pytest.param(name, marks=pytest.mark.authors(repository))


@pytest.mark.parametrize(
    "name", [mark(name, recipe) for name, recipe in read_recipes().items() if recipe.files]
)
def test_a_recipe_is_what_the_authors_files_say(name: str, checkout: Checkout) -> None:
    for task in suite_cards.read(SUITE).tasks:
        published = read_published(name, checkout.folder, task)
        assert [*published.mistakes()] == [], task
        # Of a recipe that says something else, every setting is found.
        other = {"published": {"*": "?"}}
        wrong = tuple(each.model_copy(update=other) for each in published.recipe.settings)
        wrong = published.recipe.model_copy(update={"settings": wrong})
        mistakes = [*replace(published, recipe=wrong).mistakes()]
        assert len(mistakes) == len(list_read(wrong))
