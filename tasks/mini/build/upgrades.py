"""Step ``upgrades``: further targets, for what one target of a kind cannot say.

They are trained from the source that ships, and do not ship themselves. Each gets a card beside its
weights, outside the repository: ``--cards mini-build/upgrades`` finds both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from compatbench.files.hashes import hash_file

from . import towers
from .fetch import fetch
from .names import table_path, write_table
from .render import render
from .sets import MINI_FOLDER, TASKS_FOLDER
from .target import CONTRASTIVE, DISTILLATION, Plan, train


@dataclass(frozen=True)
class Further:
    """A target beside those that ship.

    Attributes:
        kind: What it inherits; a key of ``CONTRASTIVE``.
        seed: Of distillation, start and batches. Both kinds of a seed that are distilled share
            the distillation, and targets of all lengths and anchorings, too.
        length: Share of its kind's contrastive steps.
        anchoring: As of ``Plan``.
    """

    kind: str
    seed: int
    length: float = 1.0
    anchoring: float = 0.0

    @property
    def name(self) -> str:
        length = "" if self.length == 1 else f"-length-{self.length:g}"
        anchoring = f"-anchored-{self.anchoring:g}" if self.anchoring else ""
        return f"{self.kind}-{self.seed}{length}{anchoring}"

    def plan(self, work: Path) -> Plan:
        """What it is trained from, in a working folder."""
        recipe = CONTRASTIVE[self.kind]
        steps = round(self.length * recipe.steps)
        return Plan(
            self.kind,
            source=MINI_FOLDER / f"{towers.SOURCE}.safetensors",
            distilled=work / f"distilled-{self.seed}",
            checkpoints=work / self.name,
            weights=work / "upgrades" / f"{self.name}.safetensors",
            facts=work / "upgrades" / f"{self.name}.json",
            distillation=None
            if self.kind == towers.APART
            else replace(DISTILLATION, seed=self.seed),
            contrastive=replace(recipe, seed=self.seed, steps=steps),
            anchoring=self.anchoring,
        )


# Seeds 1 to 4 have made models that ship.
_ANCHORINGS = (0.3, 1, 3, 10)
#: The further targets by what they are for. ``docs/findings.md`` has the questions.
TARGETS: dict[str, list[Further]] = {
    # With the target that ships, six of each kind that ships.
    "replication": [
        Further(kind, seed) for seed in range(5, 10) for kind in (towers.TARGET, towers.ANEW)
    ],
    "properties": [
        Further(kind, seed, length)
        for seed in range(5, 9)
        for kind in CONTRASTIVE
        for length in (1, 0.5)
    ],
    "anchoring": [
        Further(towers.ANEW, seed, anchoring=weight) for seed in (5, 6) for weight in _ANCHORINGS
    ],
}


def choose(only: Sequence[str]) -> list[Further]:
    """The targets of these names, or for these purposes; each once, in order.

    Raises:
        SystemExit: a name that is neither.
    """
    every = {each.name: each for group in TARGETS.values() for each in group}
    chosen = dict[str, Further]()
    for name in only:
        group = TARGETS.get(name, [every[name]] if name in every else [])
        if not group:
            known = ", ".join([*TARGETS, *every])
            raise SystemExit(f"there is no target, and no purpose of targets, '{name}': {known}")
        chosen |= {each.name: each for each in group}
    return list(chosen.values())


def train_upgrades(work: Path, only: Sequence[str] = tuple(TARGETS)) -> None:
    """Trains further targets, and writes their cards; goes on where it stopped.

    Args:
        work: The working folder, which gets the drawings first; weights go to ``upgrades/`` in it.
        only: Names of targets, or of what they are for.
    """
    chosen = choose(only)
    if not table_path(work).exists():
        for prepare in (fetch, render, write_table):
            prepare(work)
    for each in chosen:
        train(work, each.plan(work))
        write_card(work, each)


def write_card(work: Path, further: Further) -> None:
    """Write a target's card beside its weights: that of its kind, with its own name and hash."""
    weights = further.plan(work).weights
    ships = towers.TARGET if further.kind == towers.APART else further.kind
    path = TASKS_FOLDER / "backbones" / f"{ships}.yaml"
    card = yaml.safe_load(path.read_text(encoding="utf-8"))
    if further.kind == towers.APART:
        del card["text_from"]
        card |= {"title": card["title"].replace(" (", ", nothing inherited (")}
        card |= {"lineage": "none; trained from a random start"}
    about = f", seed {further.seed}"
    about += f", {further.length:g} of the steps" if further.length != 1 else ""
    about += f", texts anchored by {further.anchoring:g}" if further.anchoring else ""
    card["name"] = further.name
    card["title"] = card["title"].replace(" (", f"{about} (")
    card["weights"] = weights.name
    card["sha256"] = hash_file(weights)
    text = yaml.safe_dump(card, sort_keys=False, width=1000)
    weights.with_suffix(".yaml").write_text(text, encoding="utf-8")
