"""Images of the mini suite: small drawings, painted when they are read.

The drawings ship as sprite sheets of 48 × 48 tiles. A row of a split file names a
tile and a paint seed; the seed decides colours, background and a slight turn.
"""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from compatbench.data.images import SPLITS, Sample
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import sha256_file, sha256_json

TILE = 48
COLUMNS = 32


@dataclass(frozen=True)
class Drawing(Sample):
    """One image: tile ``tile`` of an icon set's sheet, painted with seed ``paint``."""

    sheet: str
    tile: int
    paint: int


class DrawingsSource:
    """Reads one split file of the mini suite and the sheets it names.

    Raises:
        CompatbenchError: a file is missing, differs from the manifest, or breaks its format.
    """

    def __init__(self, tasks_folder: Path, split: str) -> None:
        self.path = tasks_folder / split
        self._folder = self.path.parent.parent
        groups = _by_split(self._verified(self.path))
        self.samples: Mapping[str, Sequence[Drawing]] = {n: groups.get(n, []) for n in SPLITS}

    def fingerprint(self, samples: Sequence[Drawing]) -> str:
        """Hash of everything that decides these images."""
        files = self._manifest["files"]
        names = [f"drawings/{sheet}.webp" for sheet in sorted({s.sheet for s in samples})]
        names.append("drawings/sets.csv")
        missing = [name for name in names if name not in files]
        if missing:
            raise CompatbenchError(f"{self._folder / 'manifest.json'} does not list {missing[0]}")
        hashes = [files[name]["sha256"] for name in names]
        return sha256_json([[sample.id for sample in samples], hashes, ENGINE_VERSION])

    def image(self, sample: Drawing) -> Image.Image:
        """The painted drawing, RGB, 48 × 48."""
        sheet = self._sheet(sample.sheet)
        row, column = divmod(sample.tile, COLUMNS)
        tile = sheet[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        if tile.shape != (TILE, TILE, 4):
            raise CompatbenchError(
                f"{self.path}: tile {sample.tile} lies outside the sheet of set '{sample.sheet}'"
            )
        return _painter()(tile, self._monochrome[sample.sheet], sample.paint)

    def _sheet(self, name: str) -> np.ndarray:
        return _decode(self._verified(self._folder / "drawings" / f"{name}.webp"))

    @cached_property
    def _monochrome(self) -> dict[str, bool]:
        path = self._verified(self._folder / "drawings" / "sets.csv")
        with path.open(newline="", encoding="utf-8") as file:
            return {
                row["set"]: row["monochrome"] in ("1", "true", "True")
                for row in csv.DictReader(file)
            }

    @cached_property
    def _manifest(self) -> dict[str, dict[str, dict[str, str]]]:
        return _read_manifest(self._folder / "manifest.json")

    def _verified(self, path: Path) -> Path:
        """The path, once its bytes have been held against the manifest."""
        name = path.relative_to(self._folder).as_posix()
        entry = self._manifest["files"].get(name)
        if entry is None:
            raise CompatbenchError(f"{self._folder / 'manifest.json'} does not list {name}")
        if not path.is_file():
            raise CompatbenchError(f"{path} is missing; restore it (git checkout, or reinstall)")
        if _hash_once(path, path.stat().st_mtime_ns) != entry["sha256"]:
            raise CompatbenchError(
                f"{path} is damaged: its SHA-256 is not the manifest's; "
                "restore it (git checkout, or reinstall)"
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
def _read_manifest(path: Path) -> dict[str, dict[str, dict[str, str]]]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CompatbenchError(f"cannot read {path}: {error}") from None


def _by_split(path: Path) -> dict[str, list[Drawing]]:
    groups: dict[str, list[Drawing]] = {}
    for split, drawing in _read_rows(path):
        groups.setdefault(split, []).append(drawing)
    return groups


def _read_rows(path: Path) -> Iterator[tuple[str, Drawing]]:
    with path.open(newline="", encoding="utf-8") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            try:
                split, sheet = row["split"], row["set"]
                label, tile, paint = int(row["label"]), int(row["tile"]), int(row["paint"])
            except (KeyError, TypeError, ValueError):
                raise CompatbenchError(
                    f"{path}:{line}: a row holds split,label,set,tile,paint"
                ) from None
            if split not in SPLITS:
                raise CompatbenchError(f"{path}:{line}: split is '{split}', not train, val or test")
            yield split, Drawing(f"{sheet}/{tile}/{paint}", label, sheet, tile, paint)
