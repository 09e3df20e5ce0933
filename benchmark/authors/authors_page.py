"""Make ``docs/authors.md``: whole fits compared with the authors' code, from ``fits.csv``."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from pages import Page

from compatbench.method.registry import builtin_methods, builtin_transfers

HERE = Path(__file__).parent
# Why transfers have no row; by default they are of this project.
WITHOUT = {
    "anchors": "lucmos/relreps computes the similarities, but has no code that reads them back",
    "copied": "nothing is computed",
    "images": "no public code was found",
    "lambda-orthogonal": "only summaries of the paper could be read",
    "local-drift": "only summaries of the post and its repository could be read",
    "lorasuite": "only summaries of the paper could be read",
}


def list_versions() -> dict[str, str]:
    """Return the identity of the code of each method and transfer, as keys have it."""
    versions = {}
    for registry in (builtin_methods(), builtin_transfers()):
        for name in registry.classes:
            versions[name], _ = registry.identify(name)
    return versions


def make_page() -> Page:
    """Return the page. Raise SystemExit if a method with public code has no row of today's code."""
    sys.path += [str(HERE), str(HERE.parent / "research")]
    from configurations import list_read
    from recipes_page import read_recipes

    repositories = pd.read_csv(HERE / "repositories.csv")
    fits = pd.read_csv(HERE / "fits.csv").merge(repositories, "left", "repository", validate="m:1")
    names = fits["method"].str.partition(",")[0]
    compared = set(names)
    versions = names.map(list_versions()).fillna("")
    old = set(names[fits["version"].fillna("") != versions])
    recipes = read_recipes()
    without = {}
    for name, cls in builtin_methods().classes.items():
        if name in compared:
            continue
        if cls.card.paper == "compatbench":
            without[name] = "a method of this project"
        elif name in recipes:
            without[name] = "no public code was found"
        else:
            without[name] = "not compared yet"
    transfers = {}
    missing = set(old)
    for name, cls in builtin_transfers().classes.items():
        if name not in compared:
            transfers[name] = WITHOUT.get(name, "of this project")
            if cls.card.paper and name not in WITHOUT:
                missing.add(name)
    missing |= {name for name, recipe in recipes.items() if recipe.repository} - compared
    if missing:
        raise SystemExit(f"run their fits beside the authors' code: {', '.join(sorted(missing))}")
    read = {}
    for name, recipe in recipes.items():
        read[name] = f"{len([*list_read(recipe)])} of {len(recipe.settings)}"
    fits["difference"] = fits[["parameters", "logits"]].max(axis="columns")
    rows = fits.groupby(names).agg(
        fits=("method", "size"),
        repository=("repository", "first"),
        commit=("commit", "first"),
        steps=("steps", "max"),
        moved=("moved", "min"),
        difference=("difference", "max"),
    )
    rows["read"] = rows.index.map(read)
    values = {
        "rows": rows.reset_index(names="name").astype(object).fillna("").to_dict("records"),
        "worst": fits["difference"].max(),
        "without": dict(sorted(without.items())),
        "transfers": transfers,
    }
    return Page(values)
