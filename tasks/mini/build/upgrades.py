"""Step ``upgrades``: train further models, for questions that one model of a kind cannot answer.

They do not ship. Each gets a card beside its weights, outside the repository: ``--cards
mini-build/upgrades`` finds both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from compatbench.files.atomic import write_atomic
from compatbench.files.hashes import hash_file

from . import towers
from .fetch import fetch
from .names import table_path, write_table
from .render import render
from .sets import MINI_FOLDER, TASKS_FOLDER
from .source import train_second_source
from .target import CONTRASTIVE, DISTILLATION, Plan, train


@dataclass(frozen=True)
class Further:
    """A target beside those that ship.

    Attributes:
        kind: The target of this kind that ships.
        seed: Of distillation, start and batches. Targets of the same source and seed share the
            distillation.
        source: The source that it is trained from.
        anchoring: As of ``Plan``.
        compatible: As of ``Plan``.
    """

    kind: str
    seed: int
    source: str = towers.SOURCE
    anchoring: float = 0.0
    compatible: bool = False

    @property
    def name(self) -> str:
        name = towers.TARGET_CONFIGS[self.source]
        if self.kind == towers.ANEW:
            name += "-anew"
        name += f"-{self.seed}"
        if self.anchoring:
            name += f"-anchored-{self.anchoring:g}"
        if self.compatible:
            name += "-compatible"
        return name

    def plan(self, work: Path) -> Plan:
        """Return how it is trained in a working folder."""
        source_weights = MINI_FOLDER / f"{towers.SOURCE}.safetensors"
        distilled = f"distilled-{self.seed}"
        if self.source == towers.SECOND_SOURCE:
            source_weights = weights_path(work, self.source)
            distilled = f"{self.source}-{distilled}"
        return Plan(
            self.kind,
            self.source,
            source_weights=source_weights,
            distilled=work / distilled,
            checkpoints=work / self.name,
            weights=weights_path(work, self.name),
            facts=facts_path(work, self.name),
            distillation=replace(DISTILLATION, seed=self.seed),
            contrastive=replace(CONTRASTIVE[self.kind], seed=self.seed),
            anchoring=self.anchoring,
            compatible=self.compatible,
        )


_KINDS = (towers.TARGET, towers.ANEW)
# Seeds 1 to 4 have made models that ship. Seeds of the two sources differ, so that no target of one
# sees the batches of a target of the other.
#: The further targets by purpose. ``docs/findings.md`` has the questions.
TARGETS: dict[str, list[Further]] = {
    # With the targets that ship, three of each kind: two of the first source, one of the second.
    "replication": [Further(kind, seed=5) for kind in _KINDS],
    "second-source": [Further(kind, seed=7, source=towers.SECOND_SOURCE) for kind in _KINDS],
    "anchoring": [Further(towers.ANEW, seed=5, anchoring=1)],
    "compatible": [Further(towers.ANEW, seed=5, compatible=True)],
}


def weights_path(work: Path, name: str) -> Path:
    """Return where the weights of a further model go; its card lies beside them."""
    return work / "upgrades" / f"{name}.safetensors"


def facts_path(work: Path, name: str) -> Path:
    """Return where steps, losses and times of a further model go."""
    return weights_path(work, name).with_suffix(".json")


def choose(only: Sequence[str]) -> list[Further]:
    """Return the further targets of these names, or for these purposes; each once, in order.

    Raises:
        SystemExit: a name is neither.
    """
    every = {each.name: each for group in TARGETS.values() for each in group}
    chosen: dict[str, Further] = {}
    for name in only:
        group = TARGETS.get(name, [every[name]] if name in every else [])
        if not group:
            known = ", ".join([*TARGETS, *every])
            raise SystemExit(f"there is no target, and no purpose of targets, '{name}': {known}")
        chosen |= {each.name: each for each in group}
    return list(chosen.values())


def train_upgrades(work: Path, only: Sequence[str] = tuple(TARGETS)) -> None:
    """Train further targets, and write their cards; resume where an earlier run stopped.

    The second source is trained before its first target.

    Args:
        work: The working folder, which gets the drawings first; weights go to ``upgrades/`` in it.
        only: Names of targets, or of purposes.
    """
    chosen = choose(only)
    if not table_path(work).exists():
        for prepare in (fetch, render, write_table):
            prepare(work)
    for each in chosen:
        if each.source == towers.SECOND_SOURCE:
            weights = weights_path(work, each.source)
            train_second_source(work, weights, facts_path(work, each.source))
            write_source_card(work)
        train(work, each.plan(work))
        write_card(work, each)


def write_card(work: Path, further: Further) -> None:
    """Write a target's card beside its weights: that of its kind, with what differs."""
    card = _read_card(further.kind)
    about = f", seed {further.seed}"
    if further.anchoring:
        about += f", texts anchored by {further.anchoring:g}"
    if further.compatible:
        about += ", backward-compatible"
    card["title"] = card["title"].replace(" (", f"{about} (")
    if further.source == towers.SECOND_SOURCE:
        card["title"] = _title_of_second(card["title"])
        card["config"] = towers.TARGET_CONFIGS[further.source]
        card["lineage"] = card["lineage"].replace(towers.SOURCE, further.source)
        card["text_from"] = further.source
    _write_card(work, further.name, card)


def write_source_card(work: Path) -> None:
    """Write the second source's card beside its weights: that of the first, with what differs."""
    card = _read_card(towers.SOURCE)
    card["title"] = _title_of_second(card["title"])
    card["config"] = towers.SECOND_SOURCE
    _write_card(work, towers.SECOND_SOURCE, card)


def _title_of_second(title: str) -> str:
    return title.replace("CLIP", "CLIP 2", 1).replace("patch 12", "patch 12, 160 wide")


def _read_card(name: str) -> dict[str, Any]:
    path = TASKS_FOLDER / "backbones" / f"{name}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _write_card(work: Path, name: str, card: dict[str, Any]) -> None:
    weights = weights_path(work, name)
    card["name"] = name
    card["weights"] = weights.name
    card["sha256"] = hash_file(weights)
    text = yaml.safe_dump(card, sort_keys=False, width=1000)
    write_atomic(weights.with_suffix(".yaml"), text.encode())
