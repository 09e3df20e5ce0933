"""``docs/authors.md``: whole fits beside the authors' code, from ``fits.csv``."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from pages import fill_template

from compatbench.method.registry import builtin_methods, builtin_transfers

HERE = Path(__file__).parent


def make_files() -> dict[str, str]:
    """The page, by its path below docs/."""
    sys.path.append(str(HERE.parent / "research"))
    from recipes_page import read_recipes

    repositories = pd.read_csv(HERE / "repositories.csv")
    fits = pd.read_csv(HERE / "fits.csv").merge(repositories, on="repository", validate="m:1")
    names = set(fits["method"].str.partition(",")[0])
    recipes = read_recipes()
    without = [(name, recipes.get(name)) for name in builtin_methods().names() if name not in names]
    transfers = [name for name in builtin_transfers().names() if name not in names]
    worst = fits[["parameters", "logits"]].max(axis=None)
    page = fill_template(
        HERE / "authors.md.jinja",
        {},
        fits=fits.to_dict("records"),
        worst=worst,
        methods=without,
        transfers=transfers,
    )
    return {"authors.md": page}
