"""Step ``manifest``: copy the models into the suite, and write ``manifest.json``."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from . import towers
from .reading import read_card, read_split, split_names
from .sets import MINI_FOLDER, icon_sets, names_with_role

MANIFEST_PATH = MINI_FOLDER / "manifest.json"
PATTERNS = (
    *("*.safetensors", "tokenizer.txt.gz", "painting.py"),
    *("drawings/*", "splits/*", "configs/*"),
)


def copy_models(work: Path) -> None:
    """Copy the trained models from the working folder into the suite."""
    for name in trained_models(work):
        weights = towers.trained_path(work, name)
        shutil.copyfile(weights, MINI_FOLDER / weights.name)


def trained_models(work: Path) -> list[str]:
    """Return the models whose training has ended in this working folder."""
    return [name for name in towers.CONFIGS if towers.trained_path(work, name).exists()]


def write_manifest(work: Path) -> None:
    """Write what the suite consists of, with hashes, and where it comes from.

    A model that was not trained in this working folder keeps the facts of the manifest before.
    """
    trained = trained_models(work)
    shipped = [name for name in towers.CONFIGS if (MINI_FOLDER / f"{name}.safetensors").exists()]
    before = json.loads(MANIFEST_PATH.read_text(encoding="utf-8"))["models"]
    facts = {n: json.loads(towers.facts_path(work, n).read_text(encoding="utf-8")) for n in trained}
    files = sorted(path for pattern in PATTERNS for path in MINI_FOLDER.glob(pattern))
    manifest = {
        "files": {path.relative_to(MINI_FOLDER).as_posix(): _file(path) for path in files},
        "held_out_sets": names_with_role("held-out"),
        "models": {name: facts.get(name) or before[name] for name in shipped},
        "pretraining": {name: names_with_role(*towers.PRETRAINING[name]) for name in shipped},
        "tasks": {f"mini-{name}": _task(name) for name in split_names()},
    }
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False)
    MANIFEST_PATH.write_text(text + "\n", encoding="utf-8")


def _file(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _task(name: str) -> dict[str, Any]:
    card, rows = read_card(name), read_split(name)

    def sets(*splits: str) -> list[str]:
        used = set(rows.set[rows.split.isin(splits)])
        return [s for s in icon_sets() if s in used]

    return {
        "classes": len(card["classes"]),
        "counts": {s: int(n) for s, n in rows.split.value_counts().sort_index().items()},
        "parent": card.get("parent"),
        "train_sets": sets("train", "val"),
        "test_sets": sets("test"),
    }
