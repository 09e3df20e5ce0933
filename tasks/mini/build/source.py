"""Step ``source``: pre-trains the CLIP that modules are tuned on."""

from __future__ import annotations

from pathlib import Path

import torch

from . import towers
from .corpus import load_corpus
from .stage import Stage, write_facts
from .tokenizer import load_tokenizer
from .training import (
    MAX_SCALE,
    Ahead,
    Recipe,
    contrastive_step,
    draw_batch,
    make_optimisers,
    step_rng,
)

RECIPE = Recipe(seed=0, steps=2400)
STAGE = 0


def weights_path(work: Path) -> Path:
    return work / "source" / "mini-clip.safetensors"


def facts_path(work: Path) -> Path:
    return work / "source" / "facts.json"


def train_source(work: Path) -> None:
    """Trains the source model from random weights on the source sets."""
    if weights_path(work).exists():
        return
    torch.manual_seed(RECIPE.seed)
    model = towers.create(towers.SOURCE_MODEL).train()
    corpus, tokenizer = load_corpus(work, "source"), load_tokenizer()
    stage = Stage(
        "contrastive",
        work / "source",
        RECIPE.steps,
        {"model": model},
        make_optimisers(model, RECIPE),
    )

    batches = Ahead(
        lambda step: draw_batch(corpus, tokenizer, RECIPE, step_rng(RECIPE.seed, STAGE, step))
    )

    def take_step(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_SCALE)
        return contrastive_step(model, batches(step), stage.workers)

    stage.run(take_step)
    towers.save(model, weights_path(work))
    write_facts(facts_path(work), contrastive=stage)
