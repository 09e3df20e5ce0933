"""Transfers that learn on the target, each against its formula written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from random_matrices import draw
from tiny_models import MakeData
from torch import Tensor, nn

from compatbench.backbone import Backbone, Labels
from compatbench.errors import NotTransferable
from compatbench.method import FewShotData, Method, Module
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import Recipe
from compatbench.method.transfer import OldAnswers, TransferData, Unlabelled, WordPair
from compatbench.transfers import transmiter
from compatbench.transfers._shared.training import accuracy
from compatbench.transfers.distilled import distil
from compatbench.transfers.gradfix import FACTORS, GradFix, mask_by_gradient
from compatbench.transfers.retrained import Retrained
from compatbench.transfers.transmiter import (
    LogitChange,
    TransMiter,
    change_loss,
    learn_change,
    standardise,
    start_change,
)
from compatbench.transfers.warm import PULLS, Warm, train_further, train_near

RATE = 0.5


class Target(NamedTuple):
    """Where a module is brought to, with labelled images in one view."""

    model: Backbone
    labels: Labels
    data: FewShotData

    def logits(self, x: Tensor, features: Tensor) -> Tensor:
        """TaskRes, written out."""
        weights = self.model.text_features(self.labels.fill()) + 0.5 * x
        norms = features.norm(dim=-1, keepdim=True) * weights.norm(dim=-1)
        return self.model.logit_scale * features @ weights.T / norms

    def unlabelled(self, logits: Tensor) -> Unlabelled:
        features = draw(len(logits), 16, seed=4)
        zero_shot = self.logits(torch.zeros(5, 16), features).detach()
        seen, scale = OldAnswers(logits, zero_shot), self.model.logit_scale
        return Unlabelled(features, features, features, seen, scale)


@pytest.fixture(scope="module")
def target(eva64: Backbone, labels: Labels, make_data: MakeData) -> Target:
    return Target(eva64, labels, make_data(eva64, labels, views=1))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(name: str, **settings: Any) -> Method:
    cls = builtin_methods().get(name)
    return cls(cls.Config(**settings))


def taskres(epochs: int) -> Method:
    """Whole batches at a constant rate, without momentum or decay."""
    plain = dict(optimizer="sgd", momentum=0, weight_decay=0, schedule="constant", batch_size=999)
    return build("taskres", recipe=Recipe(lr=RATE, epochs=epochs, **plain))  # type: ignore[arg-type]


def residual() -> Module:
    return Module({"residual": 0.3 * draw(5, 16)})


def descend(x: Tensor, loss: Any, steps: int) -> Tensor:
    for _ in range(steps):
        x = x.detach().requires_grad_()
        x = x - RATE * torch.autograd.grad(loss(x), x)[0]
    return x.detach()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["warm", "warm, pull 0.7", "distilled", "retrained"])
def test_a_trained_transfer_descends_the_written_loss(
    kind: str, target: Target, beside_naive_code: Callable[..., None]
) -> None:
    """From the old module a tenth of the method's steps; anew, all of them."""
    model, labels, data = target
    answers, start, module = 3 * draw(12, 5, seed=7), residual()["residual"], residual()
    images = target.unlabelled(answers)
    pull = 0.7 if "pull" in kind else 0.0
    steps = 3

    def loss(x: Tensor) -> Tensor:
        if kind == "distilled":
            p, q = target.logits(x, images.target).softmax(-1), answers.softmax(-1)
            both = (p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1)
            return both.mean() / 2
        entropy = F.cross_entropy(target.logits(x, data.train.views[0]), data.train.targets)
        return entropy + pull / 2 * ((x - start) ** 2).sum()

    if kind == "distilled":
        steps = 2
        found = distil(taskres(20), module, model, labels, images, seeded())
    elif kind == "retrained":
        transfer = Retrained(Retrained.Config(shots=3))
        given = TransferData(transfer, labels=data)
        found = transfer.carry(taskres(3), module, model, labels, given)
    else:
        found = train_further(taskres(30), module, model, data, seeded(), pull)
    naive = descend(0 * start if kind == "retrained" else start, loss, steps)
    beside_naive_code(kind, found["residual"], naive, steps)
    assert torch.equal(module["residual"], start)  # the old module is left as it was


def test_the_pull_is_the_one_that_classifies_the_validation_images_best(target: Target) -> None:
    model, labels, data = target
    method, module = taskres(100), residual()
    tried = [train_further(method, module, model, data, seeded(), pull) for pull in PULLS]
    right = [accuracy(method.attach(one, model, labels), data.val) for one in tried]
    found = train_near(method, module, model, data, seeded())
    assert torch.equal(found["residual"], tried[right.index(max(right))]["residual"])
    transfer = Warm(Warm.Config(shots=3, pull=True))
    given = TransferData(transfer, labels=data)
    carried = transfer.carry(method, module, model, labels, given)
    assert torch.equal(carried["residual"], found["residual"])


def test_gradfix_keeps_what_most_images_agree_with(target: Target) -> None:
    module, val = residual(), target.data.val
    tau, votes = module["residual"], torch.zeros(5, 16)
    for feature, label in zip(target.data.train.views[0], target.data.train.targets, strict=True):
        x = torch.zeros_like(tau).requires_grad_()
        loss = F.cross_entropy(target.logits(x, feature[None]), label[None])
        votes -= torch.autograd.grad(loss, x)[0].sign()
    kept = tau * (votes.sign() == tau.sign())
    assert 0 < int((kept != 0).sum()) < kept.numel()
    guesses = [target.logits(factor * kept, val.views[0]).argmax(-1) for factor in FACTORS]
    right = [int((guess == val.targets).sum()) for guess in guesses]
    found = mask_by_gradient(taskres(20), module, target.model, target.data)
    assert torch.allclose(found["residual"], FACTORS[right.index(max(right))] * kept, atol=1e-9)


def test_gradfix_takes_differences_from_zero_shot_and_training_what_is_trained(
    target: Target,
) -> None:
    served = {name for name, cls in builtin_methods().classes.items()
              if GradFix(GradFix.Config(shots=1)).serves(cls.card)}  # fmt: skip
    assert {"taskres", "bitfit", "clip_lora", "rosetta"} <= served
    assert served.isdisjoint({"coop", "kgcoop", "maple", "linear_probe", "cocoop"})
    tip, given = build("tip_adapter"), (target.model, target.data)
    with pytest.raises(NotTransferable, match="computed, not trained"):
        train_further(tip, Module(), *given, seeded())
    with pytest.raises(NotTransferable, match="no difference from"):
        mask_by_gradient(tip, Module({}, {"alpha": draw(1)}), *given)


def test_the_logit_change_is_turned_as_written(float64: None) -> None:
    source, target = 20 * draw(9, 12), 30 * draw(9, 12, seed=1)
    change = learn_change(source, 20 * draw(9, 5, seed=2), seeded())
    p, net = change.projection, change.net
    assert torch.allclose(p @ p.T, torch.eye(12), atol=1e-9)
    # A new one changes nothing.
    assert torch.allclose(start_change(12, seeded())(source), source, atol=1e-4)

    def rows(logits: Tensor) -> Tensor:
        return torch.stack([(u - u.mean()) / (u.std() + 1e-6) for u in logits])

    x_t, x_s = rows(target) @ p.T, rows(source) @ p.T
    u, _, vh = torch.linalg.svd(x_t.T @ x_s + 500 * torch.eye(12))
    turned = (u @ vh).T @ p
    x = rows(target) @ turned.T
    mean, std = target.mean(-1, keepdim=True), target.std(-1, keepdim=True)
    expected = (x + net(x)) @ turned * std + mean
    assert torch.allclose(change.turned(source, target)(target), expected, atol=1e-9)
    # Between equal logits there is nothing to turn.
    assert torch.allclose(change.turned(source, source).projection, p, atol=1e-9)
    assert torch.equal(standardise(source)[0].argmax(-1), source.argmax(-1))


def test_the_logit_change_learns_in_the_written_steps(
    float64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its projection is the triangular parametrisation of ``torch.nn.utils.parametrizations``."""
    monkeypatch.setattr(transmiter, "EPOCHS", 4)
    monkeypatch.setattr(transmiter, "NOISE", 0.0)
    logits, teacher = 5 * draw(9, 12), 5 * draw(9, 5, seed=1)
    q, p = (2 * teacher).softmax(-1), logits[:, :5].softmax(-1)
    assert torch.allclose(change_loss(logits, teacher), 0.5 * (q * (q / p).log()).sum(-1).mean())
    learned, start = learn_change(logits, teacher, seeded()), start_change(12, seeded())
    linear, net = nn.Linear(12, 12, bias=False), start.net.double()
    nn.utils.parametrizations.orthogonal(linear, orthogonal_map="matrix_exp")
    linear.weight = start.projection.double()
    optimizer = torch.optim.AdamW([*net.parameters(), *linear.parameters()], weight_decay=1e-3)
    for phase in (None, 0.8, 1.8, 2.8):
        rate = 5.0 if phase is None else (1 + math.cos(math.pi * phase / 3.8)) / 2
        optimizer.param_groups[0]["lr"] = 1e-3 * rate
        optimizer.zero_grad()
        change_loss(LogitChange(linear.weight, net)(logits), teacher).backward()
        optimizer.step()
    assert torch.allclose(learned.projection, linear.weight, atol=1e-9)
    assert torch.allclose(learned(logits), LogitChange(linear.weight, net)(logits), atol=1e-9)


def test_transmiter_on_the_source_itself_answers_as_the_learned_change(
    target: Target, float64: None
) -> None:
    images, words = target.unlabelled(3 * draw(12, 5, seed=7)), F.normalize(draw(20, 16, seed=8))
    answers = []
    for turn in (True, False):
        transfer = TransMiter(TransMiter.Config(turn=turn))
        given = TransferData(transfer, 1, words=WordPair(words, words), unlabelled=images)
        with torch.no_grad():
            attached = transfer.attach(taskres(20), residual(), target.model, target.labels, given)
            answers.append(attached(images.target))
    assert answers[0].shape == (12, 5)
    assert torch.allclose(*answers, atol=1e-9)
