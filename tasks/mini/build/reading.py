"""Reads a task's images back from the suite's folder, as the harness does."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd
import torch
import yaml

from ..painting import paint
from .finishing import normalise
from .sets import TASKS_FOLDER, icon_sets
from .sheets import DRAWINGS_FOLDER, SPLITS_FOLDER, load_sheet


@lru_cache(maxsize=64)
def sheet(icon_set: str) -> np.ndarray:
    """All tiles of a set's sheet, uint8 [N, 48, 48, 4]."""
    return load_sheet(DRAWINGS_FOLDER / f"{icon_set}.webp")


def read_split(name: str) -> pd.DataFrame:
    """The rows of a split file: split, label, set, tile, paint."""
    return pd.read_csv(SPLITS_FOLDER / f"{name}.csv")


def split_names() -> list[str]:
    """Names of all tasks and variants, tasks before their variants."""
    return sorted(path.stem for path in SPLITS_FOLDER.glob("*.csv"))


def read_card(name: str) -> dict:
    """A task's card; a variant's with its parent's classes and templates."""
    card = yaml.safe_load((TASKS_FOLDER / f"mini-{name}.yaml").read_text(encoding="utf-8"))
    if parent := card.get("parent"):
        inherited = read_card(parent.removeprefix("mini-"))
        card |= {key: inherited[key] for key in ("classes", "templates")}
    return card


def painted(rows: pd.DataFrame) -> list[np.ndarray]:
    """The finished images of some rows, each uint8 [48, 48, 3]."""
    return [
        np.asarray(paint(sheet(row.set)[row.tile], icon_sets()[row.set].monochrome, row.paint))
        for row in rows.itertuples()
    ]


def read_test(name: str) -> tuple[dict, torch.Tensor, torch.Tensor]:
    """A task's card, and its test split: normalised images, float [N, 3, 48, 48], labels [N]."""
    card, rows = read_card(name), read_split(name)
    rows = rows[rows.split == "test"]
    pixels = torch.from_numpy(np.stack(painted(rows))).permute(0, 3, 1, 2).float() / 255
    return card, normalise(pixels), torch.tensor(rows.label.to_numpy())
