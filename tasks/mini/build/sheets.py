"""Packs the tasks' drawings into one lossless sprite sheet per icon set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image
from rich.progress import track

from .render import SIZE, drawings_path
from .sets import MINI_FOLDER, icon_sets

if TYPE_CHECKING:
    from .splits import Split

COLUMNS = 32
DRAWINGS_FOLDER = MINI_FOLDER / "drawings"
SPLITS_FOLDER = MINI_FOLDER / "splits"


def write_sheets(work: Path, splits: list[Split], folder: Path = MINI_FOLDER) -> None:
    """Writes the sprite sheets of all drawings in the splits, sets.csv, and the splits.

    A split's rows are written with the drawing's tile in its sheet instead of its
    row in the rendered array. What ``drawings/`` and ``splits/`` of the folder had is removed.
    """
    drawings_folder, splits_folder = folder / "drawings", folder / "splits"
    drawings_folder.mkdir(exist_ok=True)
    splits_folder.mkdir(exist_ok=True)
    used = pd.concat([split.rows for split in splits])
    tiles: dict[tuple[str, int], int] = {}
    table = []
    names = [name for name in icon_sets() if name in set(used.set)]
    for stale in drawings_folder.glob("*.webp"):
        if stale.stem not in names:
            stale.unlink()
    for name in track(names, "sheets"):
        rows = sorted(set(used.row[used.set == name]))
        tiles |= {(name, row): tile for tile, row in enumerate(rows)}
        drawings = np.load(drawings_path(work, name), mmap_mode="r")[rows]
        save_sheet(drawings, drawings_folder / f"{name}.webp")
        icon_set = icon_sets()[name]
        table.append(
            (name, int(icon_set.monochrome), len(rows), icon_set.licence, icon_set.attribution)
        )
    pd.DataFrame(table, columns=["set", "monochrome", "tiles", "licence", "attribution"]).to_csv(
        drawings_folder / "sets.csv", index=False, lineterminator="\n"
    )
    for stale in splits_folder.glob("*.csv"):
        stale.unlink()
    for split in splits:
        rows = split.rows
        keys = zip(rows.set, rows.row, strict=True)
        written = rows.assign(tile=[tiles[key] for key in keys])
        written[["split", "label", "set", "tile", "paint"]].to_csv(
            splits_folder / f"{split.name}.csv", index=False, lineterminator="\n"
        )


def save_sheet(drawings: np.ndarray, path: Path) -> None:
    """Writes drawings, uint8 [N, 48, 48, 4], as tiles, 32 to a row, row by row."""
    lines = -(-len(drawings) // COLUMNS)
    sheet = np.zeros((lines * COLUMNS, SIZE, SIZE, 4), np.uint8)
    sheet[: len(drawings)] = drawings
    sheet = sheet.reshape(lines, COLUMNS, SIZE, SIZE, 4).swapaxes(1, 2)
    image = Image.fromarray(sheet.reshape(lines * SIZE, COLUMNS * SIZE, 4), "RGBA")
    image.save(path, lossless=True, exact=True, method=6)


def load_sheet(path: Path) -> np.ndarray:
    """Reads the tiles of a sheet, uint8 [N, 48, 48, 4], blank ones at the end included."""
    sheet = np.asarray(Image.open(path).convert("RGBA"))
    lines = sheet.shape[0] // SIZE
    tiles = sheet.reshape(lines, SIZE, COLUMNS, SIZE, 4).swapaxes(1, 2)
    return tiles.reshape(lines * COLUMNS, SIZE, SIZE, 4)
