"""Step ``render``: every icon as a 48 x 48 RGBA array, one file per set."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from multiprocessing import Pool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from .fetch import read_json
from .progress import bar
from .sets import IconSet, icon_sets

SIZE = 48
MIN_VISIBLE_PIXELS = 12
MIN_ALPHA = 30

# Where a set draws one icon at many pixel sizes, the most detailed size that
# still reads at 48 pixels is taken.
PREFERRED_SIZES = {
    "fluent": (24, 20, 28, 32, 48, 16),
    "fluent-color": (48, 32, 28, 24, 20),
}
# Near-copies of other icons of the same set.
SKIPPED = {
    "fluent": r"-light$",
    "material-symbols": r"-sharp$",
    "maki": r"-11$",
    "solar": r"-broken$",
    "ph": r"-(bold|light|thin)$",
    "ion": r"-sharp$",
}
_SIZE_IN_NAME = re.compile(r"-(\d+)(?=-(?:filled|regular|light|color)$|$)")


class Job(NamedTuple):
    """One icon to render: its name and its SVG."""

    name: str
    svg: str
    wide: bool


def drawings_path(work: Path, icon_set: str) -> Path:
    """Where the uint8 array [drawings, 48, 48, 4] of a set is kept."""
    return work / "drawings" / f"{icon_set}.npy"


def load_drawings(work: Path, table: pd.DataFrame) -> np.ndarray:
    """The drawings of a table's rows (``set``, ``row``), uint8 [rows, 48, 48, 4]."""
    found = np.empty((len(table), SIZE, SIZE, 4), np.uint8)
    for name, places in table.groupby("set", sort=False).indices.items():
        drawings = np.load(drawings_path(work, str(name)), mmap_mode="r")
        found[places] = drawings[table.row.to_numpy()[places]]
    return found


def names_path(work: Path, icon_set: str) -> Path:
    """Where the table with the names of a set's drawings is kept."""
    return work / "drawings" / f"{icon_set}.csv"


def render(work: Path) -> None:
    """Renders every set that is not rendered yet."""
    (work / "drawings").mkdir(parents=True, exist_ok=True)
    missing = [s for s in icon_sets().values() if not names_path(work, s.name).exists()]
    with Pool(os.cpu_count()) as pool, bar() as progress:
        for icon_set in missing:
            jobs = list(_jobs(work, icon_set))
            task = progress.add_task("render", total=len(jobs), note=icon_set.name)
            names, arrays = [], []
            for job, array in zip(jobs, pool.imap(_render_one, jobs, chunksize=64), strict=True):
                if array is not None:
                    names.append(job.name)
                    arrays.append(array)
                progress.advance(task)
            np.save(drawings_path(work, icon_set.name), np.stack(arrays))
            # Written last: its presence says that the set is done.
            pd.DataFrame({"name": names}).to_csv(names_path(work, icon_set.name), index=False)
            progress.remove_task(task)


def _jobs(work: Path, icon_set: IconSet) -> Iterator[Job]:
    data = read_json(work, icon_set.package, "icons.json")
    icons = data["icons"]
    names = [name for name, icon in icons.items() if not icon.get("hidden")]
    skipped = SKIPPED.get(icon_set.name)
    names = _one_size_each(icon_set.name, names)
    if skipped:
        names = [name for name in names if not re.search(skipped, name)]
    for name in names:
        icon = icons[name]
        left, top = icon.get("left", 0), icon.get("top", 0)
        width = icon.get("width", data.get("width", 16))
        height = icon.get("height", data.get("height", 16))
        body = icon["body"].replace("currentColor", "#000000")
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" '
            f'width="{width}" height="{height}">{body}</svg>'
        )
        yield Job(name, svg, width >= height)


def _one_size_each(icon_set: str, names: list[str]) -> list[str]:
    order = PREFERRED_SIZES.get(icon_set)
    if order is None:
        return names
    best: dict[str, tuple[int, str]] = {}
    for name in names:
        found = _SIZE_IN_NAME.search(name)
        size = int(found.group(1)) if found else 0
        rank = order.index(size) if size in order else len(order)
        key = _SIZE_IN_NAME.sub("", name)
        if key not in best or rank < best[key][0]:
            best[key] = (rank, name)
    return [name for _, name in best.values()]


def _render_one(job: Job) -> np.ndarray | None:
    """Renders one icon to uint8 [48, 48, 4]; None where it fails or is blank."""
    import resvg_py

    side = {"width": SIZE} if job.wide else {"height": SIZE}
    try:
        png = resvg_py.svg_to_bytes(svg_string=job.svg, skip_system_fonts=True, **side)
    except ValueError:
        return None
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    if image.size != (SIZE, SIZE):
        image.thumbnail((SIZE, SIZE))
        canvas = Image.new("RGBA", (SIZE, SIZE))
        canvas.paste(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2))
        image = canvas
    pixels = np.asarray(image)
    return pixels if (pixels[..., 3] > MIN_ALPHA).sum() >= MIN_VISIBLE_PIXELS else None
