"""Steps ``source``, ``next`` and ``other``: pre-train the CLIPs.

Modules are trained on ``mini-clip``. ``mini-clip-next`` is its minor update: the same training,
continued for a while on a little more data. ``mini-clip-other`` has its sizes, but another start
and other sets. ``mini-clip-2``, which does not ship, has its sets, but one round, another start and
other widths.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from . import towers
from .corpus import load_corpus
from .stage import write_facts
from .training import Recipe, contrast

FIRST = Recipe(seed=0, steps=2400)
#: A second round at half the rates, with more of the long captions.
SECOND = Recipe(seed=0, steps=1600, rate=1e-3, muon_rate=1.5e-3)
#: The seed of ``mini-clip-2``. No other model has it.
SECOND_SOURCE_SEED = 10
NEXT = Recipe(seed=2, steps=300, rate=5e-4, muon_rate=7.5e-4)
OTHER = Recipe(seed=3, steps=1200)


def train_source(work: Path) -> None:
    """Train the source model from random weights on the source sets."""
    _train_shipped(work, towers.SOURCE, first=FIRST, second=SECOND)


def train_next(work: Path) -> None:
    """Continue the source model's training on its sets and a few more."""
    _train_shipped(work, towers.NEXT, contrastive=NEXT)


def train_other(work: Path) -> None:
    """Train a CLIP of the source's sizes from another start, on the target's own sets."""
    _train_shipped(work, towers.OTHER, contrastive=OTHER)


def train_second_source(work: Path, weights: Path, facts: Path) -> None:
    """Train a second source on the sets of the first, from another start and with other widths.

    It has one round, the first of the other's two.

    Args:
        work: The working folder. It has the drawings, and gets the checkpoints.
        weights: Where the weights go.
        facts: Where steps, losses and times go.
    """
    recipe = replace(FIRST, seed=SECOND_SOURCE_SEED)
    _train(work, towers.SECOND_SOURCE, weights, facts, first=recipe)


def _train_shipped(work: Path, name: str, **rounds: Recipe) -> None:
    weights = towers.trained_path(work, name)
    facts = towers.facts_path(work, name)
    _train(work, name, weights, facts, **rounds)


def _train(work: Path, name: str, weights: Path, facts: Path, **rounds: Recipe) -> None:
    if weights.exists():
        return
    torch.manual_seed(next(iter(rounds.values())).seed)
    if name == towers.NEXT:
        model = towers.load(towers.SOURCE, towers.trained_path(work, towers.SOURCE))
    else:
        model = towers.create(name)
    model.requires_grad_(True).train()
    corpus = load_corpus(work, *towers.PRETRAINING[name])
    stages = {}
    for each, recipe in rounds.items():
        stages[each] = contrast(work / name, each, model, corpus, recipe)
    write_facts(facts, **stages)
    # Weights come last, because their presence means that the training has ended.
    towers.save(model, weights)
