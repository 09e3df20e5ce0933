"""Step ``upgrades``: further targets of each kind, by other seeds.

They are trained from the source that ships, and do not ship themselves. Their cards do, with the
hashes of their weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from compatbench.files.hashes import hash_file

from . import towers
from .fetch import fetch
from .names import table_path, write_table
from .render import render
from .sets import MINI_FOLDER, TASKS_FOLDER
from .target import CONTRASTIVE, DISTILLATION, Plan, train

#: With the target that ships, six of each kind. Seeds 1 to 4 have made models that ship.
SEEDS = (5, 6, 7, 8, 9)
COMMAND = "python -m compatbench.tasks.mini.build upgrades --seeds"


def train_upgrades(work: Path, seeds: Sequence[int] = SEEDS) -> None:
    """Trains a target of each kind by each seed, and writes its card; goes on where it stopped.

    Args:
        work: The working folder, which gets the drawings first; weights go to ``upgrades/`` in it.
        seeds: Of distillation, start and batches. Both kinds of a seed share the distillation.
    """
    if not table_path(work).exists():
        for prepare in (fetch, render, write_table):
            prepare(work)
    for seed in seeds:
        for kind in CONTRASTIVE:
            train(work, plan_upgrade(work, kind, seed))
            write_card(work, kind, seed)


def name_upgrade(kind: str, seed: int) -> str:
    """The name of a further target."""
    return f"{kind}-{seed}"


def plan_upgrade(work: Path, kind: str, seed: int) -> Plan:
    """What a further target is trained from."""
    name = name_upgrade(kind, seed)
    return Plan(
        kind,
        source=MINI_FOLDER / f"{towers.SOURCE}.safetensors",
        distilled=work / f"distilled-{seed}",
        checkpoints=work / name,
        weights=work / "upgrades" / f"{name}.safetensors",
        facts=work / "upgrades" / f"{name}.json",
        distillation=replace(DISTILLATION, seed=seed),
        contrastive=replace(CONTRASTIVE[kind], seed=seed),
    )


def write_card(work: Path, kind: str, seed: int) -> None:
    """Writes a target's card: that of its kind, with its own name, file, hash and command."""
    weights = plan_upgrade(work, kind, seed).weights
    folder = TASKS_FOLDER / "backbones"
    path = folder / f"{weights.stem}.yaml"
    card = yaml.safe_load((folder / f"{kind}.yaml").read_text(encoding="utf-8"))
    card["name"] = weights.stem
    card["title"] = card["title"].replace(" (", f", seed {seed} (")
    card["weights"] = f"mini/{weights.name}"
    card["sha256"] = hash_file(weights)
    card["made_by"] = f"{COMMAND} {seed}"
    if path.exists() and card["sha256"] not in path.read_text(encoding="utf-8"):
        print(f"{weights} has other bits than {path} says; processors round differently")
        return
    path.write_text(yaml.safe_dump(card, sort_keys=False, width=1000), encoding="utf-8")
