"""What both pre-trainings share: batches, optimisers, schedule, loss, checkpoints.

All randomness of a step comes from a generator seeded by (seed, stage, step). So a
run that is stopped and started again goes the same way as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
import torch.nn.functional as F

from .corpus import Corpus
from .finishing import finish
from .progress import bar
from .towers import Model, encode_images, encode_text, text_parameters

BATCH = 256
# Captions are encoded in groups of similar length: a third of the time is saved
# that padding would cost.
TEXT_GROUPS = (72, 56, 48, 32, 24, 24)
WARM_UP = 60
FINAL_RATE = 0.02
MAX_SCALE = math.log(100)
REPORT_EVERY = 100
#: A logit no softmax can see.
MASKED = -1e4


@dataclass
class Recipe:
    """How one stage of a pre-training runs.

    Attributes:
        seed: Of everything random.
        steps: Batches of BATCH pairs.
        rate: Peak learning rate of AdamW (biases, norms, embeddings).
        muon_rate: Peak learning rate of Muon (weight matrices).
        text_factor: Factor on both rates in the text encoder.
        strength: Of the finishing's geometric and colour changes.
        grey_share: Share of coloured drawings that lose their colours.
    """

    seed: int
    steps: int
    rate: float = 2e-3
    muon_rate: float = 3e-3
    text_factor: float = 1.0
    strength: float = 0.7
    grey_share: float = 0.1


@dataclass
class Progress:
    """How far a stage has got; part of its checkpoint and of the manifest."""

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Batch:
    """Images, float [B, 3, 48, 48], their captions' tokens, int64 [B, L], and their concepts, int64 [B]."""

    images: torch.Tensor
    tokens: torch.Tensor
    concepts: torch.Tensor


def step_rng(seed: int, stage: int, step: int) -> np.random.Generator:
    """The generator of one training step."""
    return np.random.default_rng([seed, stage, step])


def draw_images(
    corpus: Corpus, recipe: Recipe, rng: np.random.Generator
) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Draws a batch of images: normalised pixels, rows of the corpus, background colours."""
    rows = rng.choice(len(corpus), BATCH, p=corpus.weights)
    tiles, monochrome = corpus.drawings[rows], corpus.monochrome[rows]
    images, grounds = finish(tiles, monochrome, rng, recipe.strength, recipe.grey_share)
    return images, rows, grounds


def draw_batch(
    corpus: Corpus,
    tokenizer: Callable[[list[str]], torch.Tensor],
    recipe: Recipe,
    rng: np.random.Generator,
) -> Batch:
    """Draws a batch of image-text pairs, sorted by the captions' lengths."""
    images, rows, grounds = draw_images(corpus, recipe, rng)
    captions = [
        corpus.captions.write(int(row), int(ground), rng)
        for row, ground in zip(rows, grounds, strict=True)
    ]
    tokens = tokenizer(captions)
    order = tokens.argmax(-1).argsort(stable=True)
    return Batch(images[order], tokens[order], corpus.concepts[rows][order])


def contrastive_loss(model: Model, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """CLIP's symmetric loss; other pairs of the same concept are no negatives.

    Returns:
        The loss and the share of images whose own caption ranks first.
    """
    with torch.autocast("cpu", torch.bfloat16):
        images = encode_images(model, batch.images)
        texts = torch.cat(
            [
                encode_text(model, group[:, : int(group.argmax(-1).max()) + 1])
                for group in batch.tokens.split(TEXT_GROUPS)
            ]
        )
    logits = model.logit_scale.exp() * images @ texts.T
    same = batch.concepts[:, None] == batch.concepts[None]
    logits = logits.masked_fill(same & ~torch.eye(BATCH, dtype=torch.bool), MASKED)
    own = torch.arange(BATCH)
    loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    return loss, (logits.argmax(1) == own).float().mean()


def make_optimisers(model: Model, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for weight matrices, AdamW for the rest; groups carry their peak rate as ``peak``."""
    text = text_parameters(model)
    groups: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for is_matrix in (True, False):
        for is_text in (True, False):
            chosen = [
                p
                for name, p in model.named_parameters()
                if (p.ndim == 2 and "embed" not in name) == is_matrix and (id(p) in text) == is_text
            ]
            peak = recipe.muon_rate if is_matrix else recipe.rate
            peak *= recipe.text_factor if is_text else 1.0
            decay = 0.05 if is_matrix else 0.0
            groups[is_matrix].append({"params": chosen, "peak": peak, "weight_decay": decay})
    return [
        torch.optim.Muon(
            groups[True], lr=recipe.muon_rate, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(groups[False], lr=recipe.rate, betas=(0.9, 0.98), eps=1e-6),
    ]


def set_rates(optimisers: Iterable[torch.optim.Optimizer], step: int, steps: int) -> None:
    """Sets the learning rates of a step: linear warm-up, then a cosine down to almost nothing."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    factor = min(1.0, (step + 1) / WARM_UP) * (FINAL_RATE + (1 - FINAL_RATE) * cosine)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = factor * group["peak"]


class Stage:
    """Runs one stage of training step by step, with checkpoints and a progress bar.

    Args:
        name: Shown in the bar; also the checkpoint's name.
        folder: Where the checkpoint is kept.
        steps: How many steps the stage has.
        modules: All that is trained, by name.
        optimisers: What trains it.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        steps: int,
        modules: dict[str, torch.nn.Module],
        optimisers: list[torch.optim.Optimizer],
    ) -> None:
        self.name, self.steps = name, steps
        self.modules, self.optimisers = modules, optimisers
        self.progress = Progress()
        self._path = folder / f"{name}.checkpoint.pt"
        folder.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._resume()

    def run(self, step_loss: Callable[[int], tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Trains to the end.

        Args:
            step_loss: Gives a step's loss and one more figure to report.
        """
        parameters = [p for o in self.optimisers for g in o.param_groups for p in g["params"]]
        started, before = time.monotonic(), self.progress.seconds
        sums = np.zeros(2)
        with bar() as progress:
            task = progress.add_task(self.name, total=self.steps, completed=self.progress.step, note="")
            for step in range(self.progress.step, self.steps):
                set_rates(self.optimisers, step, self.steps)
                loss, figure = step_loss(step)
                for optimiser in self.optimisers:
                    optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                for optimiser in self.optimisers:
                    optimiser.step()
                sums += (loss.item(), figure.item())
                self.progress.step = step + 1
                self.progress.seconds = before + time.monotonic() - started
                if self.progress.step % REPORT_EVERY == 0:
                    means = dict(zip(("loss", "figure"), (sums / REPORT_EVERY).round(4).tolist(), strict=True))
                    self.progress.history.append({"step": self.progress.step, **means})
                    sums[:] = 0
                    self._save()
                    progress.update(task, note=json.dumps(self.progress.history[-1]))
                    progress.console.print(
                        time.strftime("%H:%M:%S"), self.name, self.progress.history[-1],
                        f"{self.progress.step * BATCH / self.progress.seconds:.0f} images/s",
                    )
                progress.advance(task)
        self._save()

    def _save(self) -> None:
        state = {
            "modules": {name: m.state_dict() for name, m in self.modules.items()},
            "optimisers": [o.state_dict() for o in self.optimisers],
            "progress": vars(self.progress),
        }
        partial = self._path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self._path)

    def _resume(self) -> None:
        state = torch.load(self._path, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.progress = Progress(**state["progress"])


def write_facts(path: Path, **stages: Stage) -> None:
    """Writes what the manifest says about a training: steps, pairs, seconds, losses, versions."""
    facts: dict[str, Any] = {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "open_clip": open_clip.__version__,
            "timm": timm.__version__,
        },
        "stages": {
            name: {
                "steps": stage.progress.step,
                "images": stage.progress.step * BATCH,
                "seconds": round(stage.progress.seconds),
                "history": stage.progress.history,
            }
            for name, stage in stages.items()
        },
    }
    path.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
