"""TransMiter: a net learns on the source how a module changes logits, and serves the target."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatbench.backbone import FEATURES, Backbone, ImageInput, Labels
from compatbench.method import Classifier, Method, MethodConfig, Module
from compatbench.method.transfer import Transfer, TransferCard, TransferData

VOCABULARY = 256  # entries: the class names, and words for the rest
EPOCHS = 10
BATCH = 128
RATE = 1e-3
DECAY = 1e-3
WARMUP = 0.05  # share of the steps over which the rate rises
NOISE = 0.5  # noise as a share of the logits' spread, added to half of the batches
TEACHER_TEMPERATURE = 0.5
# Pulls the rotation between both models' logits towards the identity.
PULL = 500.0
TINY = 1e-6


class TransMiter(Transfer):
    """The module's change of the source's zero-shot logits is applied to the target's.

    Park et al., *Transferable Model-agnostic Vision-Language Model Adaptation for Efficient
    Weak-to-Strong Generalization*, with the authors' code for what the paper leaves open. Logits
    are over a vocabulary: class names and drawn words. On unlabelled images a small net learns on
    the source to map zero-shot logits to the module's. Then a rotation of standardised logits,
    found from the same images, takes the net to the target. With ``unturned`` there is no such
    rotation. Their vocabulary has 1,024 entries. Ours has 256 if there are fewer classes, because
    the net is quadratic in the entries.
    """

    card = TransferCard(
        name="transmiter",
        title="TransMiter",
        paper="arXiv:2508.08604",
        access={"words", "unlabelled"},
        summary="A net learns the module's change of zero-shot logits, and makes it on the target.",
        settings={"unturned": {"turn": False}},
        version=2,
    )

    class Config(MethodConfig):
        turn: bool = True

    def image_input(self, method: Method, target: Backbone) -> ImageInput:
        return FEATURES

    def attach(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Classifier:
        images = data.unlabelled
        rng = data.generator()
        order = torch.randperm(len(data.words.source), generator=rng)
        drawn = order[: max(VOCABULARY - len(labels), 0)]
        target_text = torch.cat([target.zero_shot(labels), data.words.target[drawn]])

        def zero_shot(features: Tensor) -> Tensor:
            return target.logit_scale * F.normalize(features, dim=-1) @ target_text.T

        source_features = F.normalize(images.source, dim=-1)
        word_logits = images.source_scale * source_features @ data.words.source[drawn].T
        source_logits = torch.cat([images.old.zero_shot, word_logits], dim=-1)
        change = learn_change(source_logits, images.old.logits, rng)
        if self.config.turn:
            change = change.turned(source_logits, zero_shot(images.target))

        def classify(features: Tensor) -> Tensor:
            return change(zero_shot(features))[:, : len(labels)]

        return classify


@dataclass(frozen=True)
class LogitChange:
    """u′ = (Pᵀ (x + MLP(x))) · std + mean with x = P (u − mean) / std, mean and std per image.

    u are a model's zero-shot logits over a vocabulary ``[images, V]``, class names first.

    Attributes:
        projection: P, orthogonal, ``[V, V]``.
        net: the MLP.
    """

    projection: Tensor
    net: nn.Module

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the changed logits, ``[images, V]``."""
        x, mean, std = standardise(logits)
        x = x @ self.projection.T
        return (x + self.net(x)) @ self.projection * std + mean

    def turned(self, source: Tensor, target: Tensor) -> LogitChange:
        """Return the change in the coordinates of another model's logits.

        With X_s, X_t the standardised logits times Pᵀ and U S Vᵀ = svd(X_tᵀ X_s + 500 I), P
        becomes (U Vᵀ)ᵀ P.

        Args:
            source: the source's logits, ``[images, V]``.
            target: the target's logits for the same images, ``[images, V]``.
        """
        source_rows = standardise(source)[0] @ self.projection.T
        target_rows = standardise(target)[0] @ self.projection.T
        product = (target_rows.T @ source_rows).double()
        u, _, v = torch.linalg.svd(product + PULL * torch.eye(len(product)).to(product))
        rotation = (u @ v).T.to(self.projection)
        return LogitChange(rotation @ self.projection, self.net)


def standardise(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits ``[images, V]`` with mean 0 and deviation 1 per image, and both numbers.

    Mean and deviation are ``[images, 1]``.
    """
    mean = logits.mean(-1, keepdim=True)
    std = logits.std(-1, keepdim=True)
    return (logits - mean) / (std + TINY), mean, std


def start_change(size: int, rng: torch.Generator) -> LogitChange:
    """Return a change that changes nothing: P is drawn, the last layer of the MLP is 0."""
    projection = torch.linalg.qr(torch.randn(size, size, generator=rng)).Q
    first = nn.Linear(size, 4 * size)
    last = nn.Linear(4 * size, size)
    bound = math.sqrt(6 / (5 * size))  # Glorot's
    with torch.no_grad():
        first.weight.copy_((2 * torch.rand(4 * size, size, generator=rng) - 1) * bound)
        first.bias.zero_()
        last.weight.zero_()
        last.bias.zero_()
    net = nn.Sequential(nn.LayerNorm(size), first, nn.GELU(), last)
    return LogitChange(projection, net)


def change_loss(changed: Tensor, teacher: Tensor) -> Tensor:
    """Return ½ KL(softmax(2 z) ‖ softmax(u′)) over the C classes, the mean over images.

    Args:
        changed: u′, ``[batch, V]``.
        teacher: the tuned model's logits z, ``[batch, C]``.
    """
    student = changed[:, : teacher.shape[1]].log_softmax(-1)
    target = (teacher / TEACHER_TEMPERATURE).log_softmax(-1)
    return TEACHER_TEMPERATURE * F.kl_div(student, target, log_target=True, reduction="batchmean")


@torch.enable_grad()
def learn_change(logits: Tensor, teacher: Tensor, rng: torch.Generator) -> LogitChange:
    """Learn a module's change of the source's logits (TransMiter, knowledge extraction).

    P and the MLP are trained together by ``change_loss``, P as C exp(S − Sᵀ) of a drawn
    orthogonal C and a triangular S. Recipe: AdamW at 1e-3 with weight decay 1e-3, batch 128,
    10 epochs, 5 % of the steps warm-up and a cosine. Half of the batches get noise of half the
    logits' spread.

    Args:
        logits: zero-shot logits of the source over the vocabulary, ``[images, V]``.
        teacher: logits of the source with the module, ``[images, C]``, C <= V.
        rng: the only source of randomness.
    """
    change = start_change(logits.shape[1], rng)
    base = change.projection.to(logits)
    net = change.net.to(logits)
    lower = torch.zeros_like(base, requires_grad=True)

    def turn() -> Tensor:
        # Only the lower triangle is trained. With both, P would turn twice as fast, because all
        # steps of AdamW have one size.
        skew = lower.tril(-1)
        return base @ torch.linalg.matrix_exp(skew - skew.T)

    optimizer = torch.optim.AdamW([*net.parameters(), lower], lr=RATE, weight_decay=DECAY)
    per_epoch = math.ceil(len(logits) / BATCH)
    steps = EPOCHS * per_epoch
    order = torch.empty(0)
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(logits), generator=rng)
        first_row = step % per_epoch * BATCH
        rows = order[first_row : first_row + BATCH].to(logits.device)
        batch = logits[rows]
        if bool(torch.rand((), generator=rng) < 0.5):
            noise = torch.randn(batch.shape, generator=rng).to(batch)
            batch = batch + NOISE * batch.std(-1, keepdim=True) * noise
        rate = learning_rate(step, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        changed = LogitChange(turn(), net)(batch)
        change_loss(changed, teacher[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        return LogitChange(turn(), net.requires_grad_(False))


def learning_rate(step: int, steps: int) -> float:
    """Return the rate of a step: a linear warm-up, then a cosine."""
    warmup = WARMUP * steps
    if step < warmup:
        return RATE * ((step + 1) / warmup)
    phase = (step - warmup) / (steps - warmup)
    return RATE * ((1 + math.cos(math.pi * phase)) / 2)
