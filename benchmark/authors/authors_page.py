"""``docs/authors.md``: whole fits beside the authors' code, from ``fits.csv``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd
from pages import Page

from compatbench.method.registry import builtin_methods, builtin_transfers

HERE = Path(__file__).parent
# Ways that have a paper and no row.
WITHOUT = {
    "anchors": "lucmos/relreps has the similarities, and no way of reading them back",
    "copied": "nothing is computed",
    "images": "no public code was found",
}


def list_versions() -> dict[str, str]:
    """What stands in keys for the code of each method and way."""
    registries = builtin_methods(), builtin_transfers()
    return {name: each.identify(name)[0] for each in registries for name in each.classes}


def make_page() -> Page:
    """The page. A method or way that has public code needs a row of today's code."""
    sys.path += [str(HERE), str(HERE.parent / "research")]
    from configurations import list_read
    from recipes_page import read_recipes

    repositories = pd.read_csv(HERE / "repositories.csv")
    fits = pd.read_csv(HERE / "fits.csv").merge(repositories, "left", "repository", validate="m:1")
    names = fits["method"].str.partition(",")[0]
    rows, versions = set(names), names.map(list_versions()).fillna("")
    old = set(names[fits["version"].fillna("") != versions])
    recipes, read = read_recipes(), {}
    without = {
        name: "no public code" if name in recipes else "a method of this project"
        for name in builtin_methods().names()
        if name not in rows
    }
    ways = {name: cls for name, cls in builtin_transfers().classes.items() if name not in rows}
    named = {name for name, recipe in recipes.items() if recipe.repository} - rows
    unsaid = {name for name, cls in ways.items() if cls.card.paper} - WITHOUT.keys()
    if missing := named | unsaid | old:
        raise SystemExit(f"run their fits beside the authors' code: {', '.join(sorted(missing))}")
    for name, recipe in recipes.items():
        found = {setting.name for setting in list_read(recipe)}
        rest = [each for each in recipe.settings if each.name not in found]
        places = dict.fromkeys(re.split(r", |; | and (?=\w+\.)", each.source)[0] for each in rest)
        if recipe.repository:
            read[name] = len(found), len(recipe.settings), list(places)
    values = {
        "fits": fits.astype(object).fillna("").to_dict("records"),
        "worst": fits[["parameters", "logits"]].max(axis=None),
        "without": without,
        "ways": {name: WITHOUT.get(name, "of this project") for name in ways},
        "read": read,
    }
    return Page(values)
