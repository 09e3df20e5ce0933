"""Images of the mini suite: small drawings, painted when they are read.

The drawings ship as sprite sheets of 48 × 48 tiles. A row of a split file names a
tile and a paint seed; the seed decides colours, background and a slight rotation.
"""

from __future__ import annotations

import csv
import importlib
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel

from compatbench.data.images.dataset_files import read_bytes, read_json
from compatbench.data.images.source import ImageSource, Sample
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_bytes, sha256_json

TILE = 48
COLUMNS = 32


@dataclass(frozen=True, slots=True)
class Drawing(Sample):
    """One image: tile ``tile`` of an icon set's sheet, painted with seed ``paint``."""

    sheet: str
    tile: int
    paint: int


class Manifest(BaseModel):
    """The files of the mini suite; the manifest's other facts are for people."""

    files: dict[str, dict[str, Any]]


class Drawings(ImageSource):
    """The images of a split file of the mini suite; all files must be as in the manifest."""

    def __init__(self, path: Path) -> None:
        self._folder = path.parents[1]
        self._manifest = read_json(self._folder / "manifest.json", Manifest).files
        samples = defaultdict(list)
        sheets = set()
        for row in self._rows(f"{path.parent.name}/{path.name}"):
            label = int(row["label"])
            sheet = row["set"]
            tile = int(row["tile"])
            paint = int(row["paint"])
            drawing = Drawing(f"{sheet}/{tile}/{paint}", label, sheet, tile, paint)
            samples[row["split"]].append(drawing)
            sheets.add(sheet)
        for sheet in sorted(sheets):
            _read(*self._listed(f"drawings/{sheet}.webp"))  # raises an error if it is damaged
        super().__init__(self._folder, samples)

    def fingerprint(self, samples: Sequence[Drawing]) -> str:
        sheets = sorted({sample.sheet for sample in samples})
        files = [f"drawings/{sheet}.webp" for sheet in sheets]
        files.append("drawings/sets.csv")
        hashes = []
        for file in files:
            _, sha256 = self._listed(file)
            hashes.append(sha256)
        identities = [sample.id for sample in samples]
        return sha256_json([identities, hashes, ENGINE_VERSION])

    def image(self, sample: Drawing) -> Image.Image:
        sheet = _decode_sheet(*self._listed(f"drawings/{sample.sheet}.webp"))
        row, column = divmod(sample.tile, COLUMNS)
        tile = sheet[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        painting = importlib.import_module("compatbench.tasks.mini.painting")
        return painting.paint(tile, self._monochrome[sample.sheet], sample.paint)

    @cached_property
    def _monochrome(self) -> dict[str, bool]:
        rows = self._rows("drawings/sets.csv")
        return {row["set"]: row["monochrome"] in ("1", "true", "True") for row in rows}

    def _rows(self, name: str) -> list[dict[str, str]]:
        text = _read(*self._listed(name)).decode("utf-8")
        return list(csv.DictReader(io.StringIO(text, newline="")))

    def _listed(self, name: str) -> tuple[Path, str]:
        """Return a file and its SHA-256, as the manifest lists it."""
        if name not in self._manifest:
            raise CompatbenchError(f"{self._folder}/manifest.json does not list {name}")
        return self._folder / name, self._manifest[name]["sha256"]


@lru_cache(maxsize=64)
def _decode_sheet(path: Path, sha256: str) -> np.ndarray:
    with Image.open(io.BytesIO(_read(path, sha256))) as image:
        return np.asarray(image.convert("RGBA"))


@cache
def _read(path: Path, sha256: str) -> bytes:
    """Return the content of a file; raise an error if its hash is not the manifest's."""
    content = read_bytes(path)
    if sha256_bytes(content) != sha256:
        problem = f"{path} is damaged: its SHA-256 is not the manifest's"
        raise CompatbenchError(f"{problem}; restore it (git checkout, or reinstall)")
    return content
