"""Steps ``source``, ``next`` and ``other``: pre-train the CLIPs.

``mini-clip`` is what modules are tuned on. ``mini-clip-next`` is its minor update: the
same training, continued for a while on a little more data. ``mini-clip-other`` shares
nothing with it but its sizes: other sets, another start.
"""

from __future__ import annotations

from pathlib import Path

import torch

from . import towers
from .corpus import load_corpus
from .stage import write_facts
from .training import Recipe, contrast

FIRST = Recipe(seed=0, steps=2400)
#: A second round at half the rates, with more of the long captions.
SECOND = Recipe(seed=0, steps=1600, rate=1e-3, muon_rate=1.5e-3)
NEXT = Recipe(seed=2, steps=300, rate=5e-4, muon_rate=7.5e-4)
OTHER = Recipe(seed=3, steps=1200)


def train_source(work: Path) -> None:
    """Trains the source model from random weights on the source sets."""
    _train(work, towers.SOURCE, first=FIRST, second=SECOND)


def train_next(work: Path) -> None:
    """Goes on with the source model's training on its sets and a few more."""
    _train(work, towers.NEXT, contrastive=NEXT)


def train_other(work: Path) -> None:
    """Trains a CLIP of the source's sizes from another start, on the target's own sets."""
    _train(work, towers.OTHER, contrastive=OTHER)


def _train(work: Path, name: str, **rounds: Recipe) -> None:
    path = towers.trained_path(work, name)
    if path.exists():
        return
    torch.manual_seed(next(iter(rounds.values())).seed)
    if name == towers.NEXT:
        model = towers.load(towers.SOURCE, towers.trained_path(work, towers.SOURCE))
    else:
        model = towers.create(name)
    model.requires_grad_(True).train()
    corpus = load_corpus(work, *towers.PRETRAINING[name])
    stages = {
        one: contrast(path.parent, one, model, corpus, recipe) for one, recipe in rounds.items()
    }
    towers.save(model, path)
    write_facts(towers.facts_path(work, name), **stages)
