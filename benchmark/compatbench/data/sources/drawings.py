"""Images of the mini suite: small drawings, painted when they are read.

The drawings ship as sprite sheets of 48 × 48 tiles. A row of a split file names a
tile and a paint seed; the seed decides colours, background and a slight rotation.
"""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from compatbench.data.images import SPLITS, ImageSource, Sample
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_file, sha256_json

TILE = 48
COLUMNS = 32
RESTORE = "restore it (git checkout, or reinstall)"


@dataclass(frozen=True, slots=True)
class Drawing(Sample):
    """One image: tile ``tile`` of an icon set's sheet, painted with seed ``paint``."""

    sheet: str
    tile: int
    paint: int


class Drawings(ImageSource):
    """Reads one split file of the mini suite and the sheets it names.

    Raises:
        CompatbenchError: a file is missing, or differs from the manifest.
    """

    def __init__(self, tasks_folder: Path, split: str) -> None:
        self.path = tasks_folder / split
        self._folder = self.path.parent.parent
        self._manifest = self._folder / "manifest.json"
        split_file = self._verified(self.path.relative_to(self._folder).as_posix())
        samples: dict[str, list[Drawing]] = {name: [] for name in SPLITS}
        for row in _read_csv(split_file):
            label, tile, paint = (int(row[name]) for name in ("label", "tile", "paint"))
            drawing = Drawing(f"{row['set']}/{tile}/{paint}", label, row["set"], tile, paint)
            samples[row["split"]].append(drawing)
        super().__init__(samples)

    def fingerprint(self, samples: Sequence[Drawing]) -> str:
        names = [f"drawings/{sheet}.webp" for sheet in sorted({s.sheet for s in samples})]
        hashes = [self._listed(name) for name in (*names, "drawings/sets.csv")]
        return sha256_json([[sample.id for sample in samples], hashes, ENGINE_VERSION])

    def image(self, sample: Drawing) -> Image.Image:
        sheet = _decode(self._verified(f"drawings/{sample.sheet}.webp"))
        row, column = divmod(sample.tile, COLUMNS)
        tile = sheet[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        return _painter()(tile, self._monochrome[sample.sheet], sample.paint)

    @cached_property
    def _monochrome(self) -> dict[str, bool]:
        rows = _read_csv(self._verified("drawings/sets.csv"))
        return {row["set"]: row["monochrome"] in ("1", "true", "True") for row in rows}

    def _listed(self, name: str) -> str:
        """The SHA-256 of a file, as the manifest lists it."""
        entry = _read_manifest(self._manifest).get(name)
        if entry is None:
            raise CompatbenchError(f"{self._manifest} does not list {name}")
        return entry["sha256"]

    def _verified(self, name: str) -> Path:
        """The path of a file whose bytes are those of the manifest."""
        path, listed = self._folder / name, self._listed(name)
        if not path.is_file():
            raise CompatbenchError(f"{path} is missing; {RESTORE}")
        if _hash_once(path, path.stat().st_mtime_ns) != listed:
            raise CompatbenchError(
                f"{path} is damaged: its SHA-256 is not the manifest's; {RESTORE}"
            )
        return path


@lru_cache(maxsize=1)
def _painter() -> Callable[[np.ndarray, bool, int], Image.Image]:
    return importlib.import_module("compatbench.tasks.mini.painting").paint


@lru_cache(maxsize=512)
def _hash_once(path: Path, changed: int) -> str:
    return sha256_file(path)


@lru_cache(maxsize=64)
def _decode(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA"))


@lru_cache(maxsize=8)
def _read_manifest(path: Path) -> dict[str, dict[str, str]]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, RecursionError) as error:
        raise CompatbenchError(f"cannot read {path}: {error}") from None


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
