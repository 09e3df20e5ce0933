"""Transfers that train on the target equal their formulas."""

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
    """A target model, with labelled images in one view."""

    model: Backbone
    labels: Labels
    data: FewShotData

    def logits(self, x: Tensor, features: Tensor) -> Tensor:
        """Return TaskRes's logits by the formula."""
        weights = self.model.text_features(self.labels.fill()) + 0.5 * x
        norms = features.norm(dim=-1, keepdim=True) * weights.norm(dim=-1)
        return self.model.logit_scale * features @ weights.T / norms

    def unlabelled(self, logits: Tensor) -> Unlabelled:
        features = draw(len(logits), 16, seed=4)
        zero_shot = self.logits(torch.zeros(5, 16), features).detach()
        seen = OldAnswers(logits, zero_shot)
        scale = self.model.logit_scale
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
    """Return TaskRes with whole batches at a constant rate, without momentum or decay."""
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
@pytest.mark.parametrize("name", ["warm", "warm, pull 0.7", "distilled", "retrained"])
def test_trained_transfer_follows_the_gradient_of_its_loss(
    name: str, target: Target, beside_naive_code: Callable[..., None]
) -> None:
    """Transfers take a tenth of the method's steps from the old module, retraining takes all."""
    model, labels, data = target
    answers = 3 * draw(12, 5, seed=7)
    start = residual()["residual"]
    module = residual()
    images = target.unlabelled(answers)
    pull = 0.7 if "pull" in name else 0.0
    steps = 3

    def loss(x: Tensor) -> Tensor:
        if name == "distilled":
            p = target.logits(x, images.target).softmax(-1)
            q = answers.softmax(-1)
            both = (p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1)
            return both.mean() / 2
        entropy = F.cross_entropy(target.logits(x, data.train.views[0]), data.train.targets)
        return entropy + pull / 2 * ((x - start) ** 2).sum()

    begin = start
    if name == "distilled":
        steps = 2
        found = distil(taskres(20), module, model, labels, images, seeded())
    elif name == "retrained":
        begin = torch.zeros_like(start)
        transfer = Retrained(Retrained.Config(shots=3))
        given = TransferData(transfer, labels=data)
        found = transfer.carry(taskres(3), module, model, labels, given)
    else:
        found = train_further(taskres(30), module, model, data, seeded(), pull)
    naive = descend(begin, loss, steps)
    beside_naive_code(name, found["residual"], naive, steps)
    assert torch.equal(module["residual"], start)  # the old module is unchanged


def test_pull_is_chosen_on_the_validation_images(target: Target) -> None:
    model, labels, data = target
    method = taskres(100)
    module = residual()
    tried = []
    right = []
    for pull in PULLS:
        trained = train_further(method, module, model, data, seeded(), pull)
        tried.append(trained)
        right.append(accuracy(method.attach(trained, model, labels), data.val))
    found = train_near(method, module, model, data, seeded())
    assert torch.equal(found["residual"], tried[right.index(max(right))]["residual"])
    warm = Warm(Warm.Config(shots=3, pull=True))
    carried = warm.carry(method, module, model, labels, TransferData(warm, labels=data))
    assert torch.equal(carried["residual"], found["residual"])


def test_gradfix_keeps_entries_that_most_images_agree_with(target: Target) -> None:
    module = residual()
    val = target.data.val
    tau = module["residual"]
    votes = torch.zeros(5, 16)
    for feature, label in zip(target.data.train.views[0], target.data.train.targets, strict=True):
        x = torch.zeros_like(tau).requires_grad_()
        loss = F.cross_entropy(target.logits(x, feature[None]), label[None])
        votes -= torch.autograd.grad(loss, x)[0].sign()
    kept = tau * (votes.sign() == tau.sign())
    assert 0 < int((kept != 0).sum()) < kept.numel()
    right = []
    for factor in FACTORS:
        guesses = target.logits(factor * kept, val.views[0]).argmax(-1)
        right.append(int((guesses == val.targets).sum()))
    found = mask_by_gradient(taskres(20), module, target.model, target.data)
    assert torch.allclose(found["residual"], FACTORS[right.index(max(right))] * kept, atol=1e-9)


def test_gradfix_and_training_serve_only_suitable_methods(
    target: Target,
) -> None:
    gradfix = GradFix(GradFix.Config(shots=1))
    served = set()
    for name, cls in builtin_methods().classes.items():
        if gradfix.serves(cls.card):
            served.add(name)
    assert {"taskres", "bitfit", "clip_lora", "rosetta"} <= served
    assert served.isdisjoint({"coop", "kgcoop", "maple", "linear_probe", "cocoop"})
    tip = build("tip_adapter")
    given = (target.model, target.data)
    with pytest.raises(NotTransferable, match="computed, not trained"):
        train_further(tip, Module(), *given, seeded())
    with pytest.raises(NotTransferable, match="no difference from"):
        mask_by_gradient(tip, Module({}, {"alpha": draw(1)}), *given)


def test_logit_change_is_rotated_by_the_formula(float64: None) -> None:
    source = 20 * draw(9, 12)
    target = 30 * draw(9, 12, seed=1)
    change = learn_change(source, 20 * draw(9, 5, seed=2), seeded())
    p = change.projection
    net = change.net
    assert torch.allclose(p @ p.T, torch.eye(12), atol=1e-9)
    # An untrained change changes nothing.
    assert torch.allclose(start_change(12, seeded())(source), source, atol=1e-4)

    def rows(logits: Tensor) -> Tensor:
        return torch.stack([(u - u.mean()) / (u.std() + 1e-6) for u in logits])

    x_t = rows(target) @ p.T
    x_s = rows(source) @ p.T
    u, _, vh = torch.linalg.svd(x_t.T @ x_s + 500 * torch.eye(12))
    turned = (u @ vh).T @ p
    x = rows(target) @ turned.T
    mean = target.mean(-1, keepdim=True)
    std = target.std(-1, keepdim=True)
    expected = (x + net(x)) @ turned * std + mean
    assert torch.allclose(change.turned(source, target)(target), expected, atol=1e-9)
    # Equal logits need no rotation.
    assert torch.allclose(change.turned(source, source).projection, p, atol=1e-9)
    assert torch.equal(standardise(source)[0].argmax(-1), source.argmax(-1))


def test_logit_change_is_trained_by_the_formula(
    float64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The projection is the matrix exponential of ``torch.nn.utils.parametrizations``."""
    monkeypatch.setattr(transmiter, "EPOCHS", 4)
    monkeypatch.setattr(transmiter, "NOISE", 0.0)
    logits = 5 * draw(9, 12)
    teacher = 5 * draw(9, 5, seed=1)
    q = (2 * teacher).softmax(-1)
    p = logits[:, :5].softmax(-1)
    assert torch.allclose(change_loss(logits, teacher), 0.5 * (q * (q / p).log()).sum(-1).mean())
    learned = learn_change(logits, teacher, seeded())
    start = start_change(12, seeded())
    linear = nn.Linear(12, 12, bias=False)
    net = start.net.double()
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


def test_transmiter_on_the_source_equals_the_learned_change(target: Target, float64: None) -> None:
    images = target.unlabelled(3 * draw(12, 5, seed=7))
    words = F.normalize(draw(20, 16, seed=8))
    answers = []
    for turn in (True, False):
        transfer = TransMiter(TransMiter.Config(turn=turn))
        given = TransferData(transfer, 1, words=WordPair(words, words), unlabelled=images)
        with torch.no_grad():
            attached = transfer.attach(taskres(20), residual(), target.model, target.labels, given)
            answers.append(attached(images.target))
    assert answers[0].shape == (12, 5)
    assert torch.allclose(*answers, atol=1e-9)
