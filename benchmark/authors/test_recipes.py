"""The published settings in our recipes equal those in the authors' files."""

from __future__ import annotations

from dataclasses import replace

import pytest
from checkout import Checkout
from configurations import list_read, read_published
from recipes_page import SUITE, PublishedRecipe, read_recipes

from compatbench.data.cards import suite_cards


def mark(name: str, recipe: PublishedRecipe) -> object:
    """Return a test's parameter, marked with the repository of the authors' files."""
    repository = recipe.files.get("repository", {"*": recipe.repository})["*"]
    return pytest.param(name, marks=pytest.mark.authors(repository))


@pytest.mark.parametrize(
    "name", [mark(name, recipe) for name, recipe in read_recipes().items() if recipe.files]
)
def test_a_recipe_equals_the_authors_files(name: str, checkout: Checkout) -> None:
    for task in suite_cards.read(SUITE).tasks:
        published = read_published(name, checkout.folder, task)
        assert [*published.mistakes()] == [], task
        # If all published values are replaced, every setting is a mistake.
        changed = []
        for setting in published.recipe.settings:
            changed.append(setting.model_copy(update={"published": {"*": "?"}}))
        wrong = published.recipe.model_copy(update={"settings": tuple(changed)})
        mistakes = [*replace(published, recipe=wrong).mistakes()]
        assert len(mistakes) == len(list_read(wrong))
