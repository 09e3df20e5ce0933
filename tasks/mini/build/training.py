"""Train both towers contrastively: batches, losses, optimisers.

All randomness of a step comes from a generator seeded by (seed, stage, step). So a
run that is stopped and started again goes the same way as one that was not.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from .corpus import Corpus
from .finishing import finish
from .stage import BATCH, Stage
from .tokenizer import load_tokenizer
from .towers import Model, encode_images, encode_text, text_parameters

T = TypeVar("T")

# Captions are encoded in groups of similar length: a third of the time is saved
# that padding would cost.
TEXT_GROUPS = (72, 56, 48, 32, 24, 24)
MAX_SCALE = math.log(100)
#: A logit no softmax can see.
MASKED = -1e4


@dataclass
class Recipe:
    """The settings of one stage of a pre-training.

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
class Batch:
    """A batch of pairs, sorted by the captions' lengths.

    Attributes:
        images: Normalised, float [B, 3, 48, 48].
        tokens: Of the captions, int64 [B, L].
        concepts: int64 [B]; equal numbers mean the same concept.
    """

    images: torch.Tensor
    tokens: torch.Tensor
    concepts: torch.Tensor


@dataclass(frozen=True)
class OldTexts:
    """The old model in the training of a new one: its features of the batch's captions.

    Attributes:
        model: The old model, frozen.
        anchoring: Weight of a penalty on the text tower: the mean squared distance of unit text
            features from the old ones.
        compatible: If True, ``influence_loss`` is added with weight 1.
    """

    model: Model
    anchoring: float = 0.0
    compatible: bool = False


def step_rng(seed: int, stage: int, step: int) -> np.random.Generator:
    """Return the generator of one training step."""
    return np.random.default_rng([seed, stage, step])


def draw_images(
    corpus: Corpus, recipe: Recipe, rng: np.random.Generator
) -> tuple[torch.Tensor, np.ndarray, np.ndarray, np.ndarray]:
    """Draw a batch: normalised images, rows of the corpus, background and ink colours."""
    rows = rng.choice(len(corpus), BATCH, p=corpus.weights)
    tiles, monochrome = corpus.drawings[rows], corpus.monochrome[rows]
    images, grounds, inks = finish(tiles, monochrome, rng, recipe.strength, recipe.grey_share)
    return images, rows, grounds, inks


def draw_batch(
    corpus: Corpus,
    tokenizer: Callable[[list[str]], torch.Tensor],
    recipe: Recipe,
    rng: np.random.Generator,
) -> Batch:
    """Draw a batch of image-text pairs, sorted by the captions' lengths."""
    images, rows, grounds, inks = draw_images(corpus, recipe, rng)
    captions = [
        corpus.captions.write(int(row), int(ground), int(ink), rng)
        for row, ground, ink in zip(rows, grounds, inks, strict=True)
    ]
    tokens = tokenizer(captions)
    order = tokens.argmax(-1).argsort(stable=True)
    return Batch(images[order], tokens[order], corpus.concepts[rows][order])


class Ahead(Generic[T]):
    """Make what a step needs while the step before it is computed.

    Args:
        draw: Returns what a step needs.
    """

    def __init__(self, draw: Callable[[int], T]) -> None:
        self._draw = draw
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, step: int) -> T:
        if self._next is None or self._next[0] != step:
            self._next = step, self._thread.submit(self._draw, step)
        drawn = self._next[1].result()
        self._next = step + 1, self._thread.submit(self._draw, step + 1)
        return drawn


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, concepts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return CLIP's symmetric loss, and the logits of texts for each image.

    Other pairs of the same concept are no negatives.

    Args:
        images: Unit features, float [B, dim].
        texts: Unit features of the images' captions, float [B, dim].
        scale: Factor on the cosines.
        concepts: As of ``Batch``.
    """
    own = torch.arange(len(concepts))
    logits = scale * images @ texts.T
    same = concepts[:, None] == concepts[None]
    logits = logits.masked_fill(same & (own[:, None] != own), MASKED)
    loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    return loss, logits


def influence_loss(
    images: torch.Tensor, old_texts: torch.Tensor, old_scale: torch.Tensor, concepts: torch.Tensor
) -> torch.Tensor:
    """Return the influence loss of backward-compatible training (Shen et al., arXiv:2003.11942).

    The old model's classifier must classify the new model's images, too. A CLIP classifies with
    features of texts, so this is its contrastive loss between the new features of the images and
    the old features of their captions, in both directions and with the old temperature. As in the
    paper, nothing holds the new classifier (here: the new text tower) to the old model.

    The paper makes class weights from old features where the old classifier lacks a class. That is
    not needed here, because the old text tower encodes every caption. XBT (arXiv:2405.14715), a
    variant for CLIP, maps the features of a finished new model to the old space by a projection.
    It was not chosen, because it leaves the new model as it is, and needs the projection at test
    time.
    """
    loss, _ = contrastive_loss(images, old_texts, old_scale, concepts)
    return loss


def contrastive_step(
    model: Model, batch: Batch, workers: ThreadPoolExecutor, old: OldTexts | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the contrastive loss of a batch and its gradients.

    The two towers run forwards and backwards side by side, one thread each. On few
    cores that others use too, this loses far less than two threads in every operation.

    Args:
        model: The model to train.
        batch: Its images and captions.
        workers: Two threads.
        old: What the old model adds to the loss, if anything.

    Returns:
        The loss and the share of images whose own caption ranks first. The
        gradients of all parameters are set.
    """
    encoded = [
        workers.submit(_encode, encode_images, model, batch.images),
        workers.submit(_encode, _encode_texts, model, batch.tokens),
    ]
    features = [future.result() for future in encoded]
    images, texts = (f.detach().requires_grad_() for f in features)
    loss, logits = contrastive_loss(images, texts, model.logit_scale.exp(), batch.concepts)
    if old is not None:
        with torch.no_grad():
            old_texts = _encode(_encode_texts, old.model, batch.tokens)
            old_scale = old.model.logit_scale.exp()
        if old.anchoring:
            loss = loss + old.anchoring * (texts - old_texts).square().sum(-1).mean()
        if old.compatible:
            loss = loss + influence_loss(images, old_texts, old_scale, batch.concepts)
    loss.backward()
    gradients = (images.grad, texts.grad)
    for done in [workers.submit(f.backward, g) for f, g in zip(features, gradients, strict=True)]:
        done.result()
    own = torch.arange(BATCH)
    return loss.detach(), (logits.argmax(1) == own).float().mean()


def _encode(
    encode: Callable[[Model, torch.Tensor], torch.Tensor], model: Model, batch: torch.Tensor
) -> torch.Tensor:
    # The cache of cast weights is one for all threads: the tower that is done first would clear it.
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        return encode(model, batch)


def _encode_texts(model: Model, tokens: torch.Tensor) -> torch.Tensor:
    groups = tokens.split(TEXT_GROUPS)
    return torch.cat([encode_text(model, g[:, : int(g.argmax(-1).max()) + 1]) for g in groups])


def contrast(
    folder: Path,
    name: str,
    model: Model,
    corpus: Corpus,
    recipe: Recipe,
    old: OldTexts | None = None,
) -> Stage:
    """Train both towers contrastively, as one stage with its checkpoints in a folder."""
    tokenizer = load_tokenizer()
    stage = Stage(name, folder, recipe.steps, {"model": model}, make_optimisers(model, recipe))
    # The stage's name decides its batches, so that two stages do not see the same ones.
    number = zlib.crc32(name.encode())
    batches = Ahead(
        lambda step: draw_batch(corpus, tokenizer, recipe, step_rng(recipe.seed, number, step))
    )

    def take_step(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_SCALE)
        return contrastive_step(model, batches(step), stage.workers, old)

    stage.run(take_step)
    return stage


def make_optimisers(model: Model, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for weight matrices and AdamW for the rest.

    Groups have their peak rate as ``peak``.
    """
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
