"""Stores what the models of suite ``mini-upgrades`` make of its tasks, and how far targets moved.

python benchmark/research/upgrade_features.py

Weights of further targets do not ship. So unit features of texts and test images, and class
tokens, lie in half precision in ``results/upgrade-features/``, of every model that was here.
From them alone ``upgrade_properties.csv`` beside that folder is made.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from compatbench.backbone import load_backbone
from compatbench.data.cache_files import default_cache_folder
from compatbench.data.cards import backbone_cards, suite_cards
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import load_task
from compatbench.engine.task_images import label_tensor
from compatbench.errors import CompatbenchError
from compatbench.extras.advice.predict import measure_moves
from compatbench.extras.studies.embeddings import EncodedTask, encode_task, measure_geometry
from compatbench.extras.studies.tower_states import inherited_share
from compatbench.files.atomic import write_atomic

SUITE = suite_cards.read("mini-upgrades")
FEATURES = Path(__file__).parent / "results" / "upgrade-features"
PROPERTIES = FEATURES.with_name("upgrade_properties.csv")
(SOURCE,) = {path[0] for path in SUITE.upgrades}


def store_features(name: str) -> None:
    """Writes a model's file, unless there is one of the same weights."""
    path, card = FEATURES / f"{name}.safetensors", backbone_cards.read(name)
    if path.exists():
        with safe_open(path, "pt") as stored:
            if json.loads(stored.metadata()["facts"])["sha256"] == card.sha256:
                return
    try:
        source, target = load_backbone(SOURCE), load_backbone(name)
    except CompatbenchError as missing:
        print(missing)
        return
    cache, tensors = FeatureCache(default_cache_folder()), dict[str, torch.Tensor]()
    for task in map(load_task, SUITE.tasks):
        for part, tensor in asdict(encode_task(target, task, cache)).items():
            tensors[f"{task.name}.{part}"] = tensor.half().contiguous()
    moves = measure_moves(source, target) | {"inherited": inherited_share(source, target)}
    facts = {"sha256": card.sha256, **{key: round(moved, 6) for key, moved in moves.items()}}
    FEATURES.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"facts": json.dumps(facts)})  # of several keys the order is random


def read_features(path: Path) -> tuple[dict[str, EncodedTask], dict[str, float]]:
    """What a model makes of each task, and how far it has moved from the source as a whole."""
    with safe_open(path, "pt") as stored:
        tensors = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118
        facts = json.loads(stored.metadata()["facts"])
    del facts["sha256"]
    encoded = {
        task: EncodedTask(
            F.normalize(tensors[f"{task}.texts"], dim=-1),
            F.normalize(tensors[f"{task}.images"], dim=-1),
            tensors[f"{task}.tokens"],
        )
        for task in SUITE.tasks
    }
    return encoded, facts


def measure_properties() -> pd.DataFrame:
    """A row for each target whose features are stored, and each task."""
    models = {path.stem: read_features(path) for path in sorted(FEATURES.glob("*.safetensors"))}
    before, _ = models.pop(SOURCE)
    rows = [
        {"target": target, "task": task, **facts}
        | measure_geometry(before[task], after[task], label_tensor(load_task(task).split("test")))
        for target, (after, facts) in models.items()
        for task in SUITE.tasks
    ]
    return pd.DataFrame(rows).round(5)


def main() -> None:
    """Store features of the models that are here, and write the properties of all stored ones."""
    for name in sorted({name for path in SUITE.upgrades for name in path}):
        store_features(name)
    rows = measure_properties()
    write_atomic(PROPERTIES, rows.to_csv(index=False, lineterminator="\n").encode())
    print(f"wrote {len(rows)} rows to {PROPERTIES}")


if __name__ == "__main__":
    main()
