"""Step ``contact``: one picture per task, with images of every class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.progress import track

from .reading import painted, read_card, read_split, split_names
from .sets import TASKS_FOLDER

PICTURES_FOLDER = TASKS_FOLDER.parent / "docs" / "mini-suite"
COLUMNS = 8
#: Images of a class: the first of the training split above those of the test split.
EACH = 3
SIDE, TITLE, GAP = 48, 14, 8  # pixels: of an image, of the line above it, between classes


def write_contact_sheets(work: Path) -> None:
    """Writes ``docs/mini-suite/<task>.webp``; the working folder is not used."""
    del work
    PICTURES_FOLDER.mkdir(parents=True, exist_ok=True)
    for stale in PICTURES_FOLDER.glob("*.webp"):
        stale.unlink()
    for name in track(split_names(), "contact sheets"):
        write_contact_sheet(name, PICTURES_FOLDER / f"{name}.webp")


def write_contact_sheet(name: str, path: Path) -> None:
    """Draws a task's classes: a row of training images over a row of test images each."""
    classes, rows = read_card(name)["classes"], read_split(name)
    splits = [s for s in ("train", "test") if (rows.split == s).any()]
    high, wide = TITLE + SIDE * len(splits), SIDE * EACH
    lines = -(-len(classes) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (wide + GAP), lines * (high + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for label, title in enumerate(classes):
        line, column = divmod(label, COLUMNS)
        place = column * (wide + GAP), line * (high + GAP)
        pen.text(place, title, fill="black")
        shown = np.concatenate([images_of(rows, split, label) for split in splits])
        sheet.paste(Image.fromarray(shown), (place[0], place[1] + TITLE))
    sheet.save(path, quality=80, method=6)


def images_of(rows, split: str, label: int) -> np.ndarray:
    """The first images of a class side by side, white where there are fewer."""
    chosen = rows[(rows.split == split) & (rows.label == label)].iloc[:EACH]
    blank = np.full((SIDE, SIDE, 3), 255, np.uint8)
    return np.concatenate([*painted(chosen), *[blank] * (EACH - len(chosen))], axis=1)
