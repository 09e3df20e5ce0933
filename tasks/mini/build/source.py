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
    path = towers.trained_path(work, towers.SOURCE)
    if path.exists():
        return
    torch.manual_seed(FIRST.seed)
    model = towers.create(towers.SOURCE).train()
    corpus = load_corpus(work, *towers.PRETRAINING[towers.SOURCE])
    first = contrast(path.parent, "first", model, corpus, FIRST)
    second = contrast(path.parent, "second", model, corpus, SECOND)
    towers.save(model, path)
    write_facts(towers.facts_path(work, towers.SOURCE), first=first, second=second)


def train_next(work: Path) -> None:
    """Goes on with the source model's training on its sets and a few more."""
    path = towers.trained_path(work, towers.NEXT)
    if path.exists():
        return
    torch.manual_seed(NEXT.seed)
    model = towers.load(towers.SOURCE, towers.trained_path(work, towers.SOURCE))
    model.requires_grad_(True).train()
    corpus = load_corpus(work, *towers.PRETRAINING[towers.NEXT])
    stage = contrast(path.parent, "contrastive", model, corpus, NEXT)
    towers.save(model, path)
    write_facts(towers.facts_path(work, towers.NEXT), contrastive=stage)


def train_other(work: Path) -> None:
    """Trains a CLIP of the source's sizes from another start, on the target's own sets."""
    path = towers.trained_path(work, towers.OTHER)
    if path.exists():
        return
    torch.manual_seed(OTHER.seed)
    model = towers.create(towers.OTHER).train()
    corpus = load_corpus(work, *towers.PRETRAINING[towers.OTHER])
    stage = contrast(path.parent, "contrastive", model, corpus, OTHER)
    towers.save(model, path)
    write_facts(towers.facts_path(work, towers.OTHER), contrastive=stage)
