"""Step ``contact``: one picture per task, with images of every class."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from rich.progress import track

from .reading import painted, read_card, read_split, split_names
from .sets import TASKS_FOLDER

PICTURES_FOLDER = TASKS_FOLDER.parent / "docs" / "mini-suite"
COLUMNS = 8
#: Images of a class: the first of the training split above those of the test split.
EACH = 3


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
    matplotlib.use("Agg")
    from matplotlib import pyplot

    classes, rows = read_card(name)["classes"], read_split(name)
    splits = [s for s in ("train", "test") if (rows.split == s).any()]
    lines = -(-len(classes) // COLUMNS)
    figure, axes = pyplot.subplots(
        lines, COLUMNS, figsize=(COLUMNS * 1.35, lines * (0.3 + 0.45 * len(splits))), squeeze=False
    )
    for label, axis in enumerate(axes.flat):
        axis.axis("off")
        if label < len(classes):
            axis.set_title(classes[label], fontsize=7, pad=2)
            shown = [images_of(rows, split, label) for split in splits]
            axis.imshow(np.concatenate(shown), interpolation="nearest")
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 80, "method": 6})
    pyplot.close(figure)


def images_of(rows, split: str, label: int) -> np.ndarray:
    """The first images of a class side by side, white where there are fewer."""
    chosen = rows[(rows.split == split) & (rows.label == label)].iloc[:EACH]
    blank = np.full((48, 48, 3), 255, np.uint8)
    return np.concatenate([*painted(chosen), *[blank] * (EACH - len(chosen))], axis=1)
