"""TransMiter: how a module changes logits, learned on the source and carried to the target."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatbench.backbone import FEATURES, Backbone, ImageInput, Labels
from compatbench.method import Classifier, Method, MethodConfig, Module
from compatbench.method.transfer import Transfer, TransferCard, TransferData

VOCABULARY = 256  # class names, and words up to so many
EPOCHS, BATCH, RATE, DECAY = 10, 128, 1e-3, 1e-3
WARMUP = 0.05  # share of the steps over which the rate rises
NOISE = 0.5  # of the logits' spread, added to half of the batches
TEACHER_TEMPERATURE = 0.5
# What pulls the turn between both models' logits to the identity.
PULL = 500.0
TINY = 1e-6


class TransMiter(Transfer):
    """What the module does to the source's zero-shot logits is done to the target's.

    Park et al., *Transferable Model-agnostic Vision-Language Model Adaptation for Efficient
    Weak-to-Strong Generalization*, with the authors' code for what the paper leaves open. Logits
    are over a vocabulary: class names and drawn words. On unlabelled images a small net learns on
    the source to make the module's logits of zero-shot logits; then a rotation of standardised
    logits, found from the same images, takes it to the target. With ``unturned`` there is no such
    rotation. Their vocabulary has 1,024 entries, ours 256 where classes are fewer, for the net is
    quadratic in them.
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
        images, rng = data.unlabelled, data.generator()
        drawn = torch.randperm(len(data.words.source), generator=rng)
        drawn = drawn[: max(VOCABULARY - len(labels), 0)]
        words = data.words.source[drawn], data.words.target[drawn]
        text = torch.cat([target.zero_shot(labels), words[1]])

        def read(features: Tensor) -> Tensor:
            return target.logit_scale * F.normalize(features, dim=-1) @ text.T

        rest = images.source_scale * F.normalize(images.source, dim=-1) @ words[0].T
        source = torch.cat([images.old.zero_shot, rest], dim=-1)
        change = learn_change(source, images.old.logits, rng)
        if self.config.turn:
            change = change.turned(source, read(images.target))
        return lambda features: change(read(features))[:, : len(labels)]


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
        """The changed logits, ``[images, V]``."""
        x, mean, std = standardise(logits)
        x = x @ self.projection.T
        return (x + self.net(x)) @ self.projection * std + mean

    def turned(self, source: Tensor, target: Tensor) -> LogitChange:
        """The change in the coordinates of another model's logits.

        ``source`` and ``target`` are both models' logits for the same images. With X_s, X_t
        their standardised ones times Pᵀ and U S Vᵀ = svd(X_tᵀ X_s + 500 I), P becomes (U Vᵀ)ᵀ P.
        """
        old, new = (standardise(logits)[0] @ self.projection.T for logits in (source, target))
        product = (new.T @ old).double()
        u, _, v = torch.linalg.svd(product + PULL * torch.eye(len(product)).to(product))
        return LogitChange((u @ v).T.to(self.projection) @ self.projection, self.net)


def standardise(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``[images, V]`` with mean 0 and deviation 1 per image; both, ``[images, 1]``."""
    mean, std = logits.mean(-1, keepdim=True), logits.std(-1, keepdim=True)
    return (logits - mean) / (std + TINY), mean, std


def start_change(size: int, rng: torch.Generator) -> LogitChange:
    """A change that changes nothing: P is drawn, the last layer of the MLP is 0."""
    projection = torch.linalg.qr(torch.randn(size, size, generator=rng)).Q
    net = nn.Sequential(
        nn.LayerNorm(size), nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size)
    )
    first, last = net[1], net[3]
    bound = math.sqrt(6 / (5 * size))  # Glorot's
    with torch.no_grad():
        first.weight.copy_((2 * torch.rand(4 * size, size, generator=rng) - 1) * bound)  # type: ignore[union-attr, operator]
        for zero in (first.bias, last.weight, last.bias):
            zero.zero_()  # type: ignore[union-attr, operator]
    return LogitChange(projection, net)


def change_loss(changed: Tensor, teacher: Tensor) -> Tensor:
    """½ KL(softmax(2 z) ‖ softmax(u′)) over the C classes, mean over images.

    ``changed`` are u′ ``[batch, V]``, ``teacher`` the tuned model's logits z ``[batch, C]``.
    """
    student = changed[:, : teacher.shape[1]].log_softmax(-1)
    target = (teacher / TEACHER_TEMPERATURE).log_softmax(-1)
    return TEACHER_TEMPERATURE * F.kl_div(student, target, log_target=True, reduction="batchmean")


@torch.enable_grad()
def learn_change(logits: Tensor, teacher: Tensor, rng: torch.Generator) -> LogitChange:
    """What a module does to the source's logits (TransMiter, knowledge extraction).

    P and the MLP are trained together by ``change_loss``, P as C exp(S − Sᵀ) of a drawn
    orthogonal C and a triangular S. Recipe: AdamW at 1e-3 with weight decay 1e-3, batch 128,
    10 epochs, 5 % of the steps warm-up and a cosine; in half of the batches noise of half the
    logits' spread is added.

    Args:
        logits: zero-shot logits of the source over the vocabulary, ``[images, V]``.
        teacher: logits of the source with the module, ``[images, C]``, C <= V.
        rng: the only source of randomness.
    """
    change = start_change(logits.shape[1], rng)
    base, net = change.projection.to(logits), change.net.to(logits)
    lower = torch.zeros_like(base, requires_grad=True)

    def turn() -> Tensor:
        # If both triangles were trained, P would turn twice as fast: AdamW's steps have one size.
        skew = lower.tril(-1)
        return base @ torch.linalg.matrix_exp(skew - skew.T)

    optimizer = torch.optim.AdamW([*net.parameters(), lower], lr=RATE, weight_decay=DECAY)
    per_epoch = math.ceil(len(logits) / BATCH)
    steps = EPOCHS * per_epoch
    warmup, order = WARMUP * steps, torch.empty(0)
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(logits), generator=rng)
        rows = order[step % per_epoch * BATCH :][:BATCH].to(logits.device)
        entered = logits[rows]
        if bool(torch.rand((), generator=rng) < 0.5):
            noise = torch.randn(entered.shape, generator=rng).to(entered)
            entered = entered + NOISE * entered.std(-1, keepdim=True) * noise
        phase = (step - warmup) / (steps - warmup)
        rate = RATE * (
            (step + 1) / warmup if step < warmup else (1 + math.cos(math.pi * phase)) / 2
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        change_loss(LogitChange(turn(), net)(entered), teacher[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        return LogitChange(turn(), net.requires_grad_(False))
