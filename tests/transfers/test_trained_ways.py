"""Transfers that learn on the target, each against its formula written out."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from random_matrices import draw
from tiny_models import MakeData
from torch import Tensor, nn

from compatbench.backbone import Backbone, DroppingBackbone, Labels
from compatbench.data.cards import suite_cards
from compatbench.engine.method_settings import resolve_settings
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.extras.check.models import wrap
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


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(name: str, **settings: Any) -> Method:
    cls = builtin_methods().get(name)
    return cls(cls.Config(**settings))


def taskres(epochs: int) -> Method:
    """Whole batches at a constant rate, without momentum or decay."""
    plain = dict(optimizer="sgd", momentum=0, weight_decay=0, schedule="constant", batch_size=999)
    return build("taskres", recipe=Recipe(lr=RATE, epochs=epochs, **plain))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def target_data(eva64: Backbone, labels: Labels, make_data: MakeData) -> FewShotData:
    return make_data(eva64, labels, views=1)


def residual(labels: Labels) -> Module:
    return Module({"residual": 0.3 * draw(len(labels), 16)})


def logits_of(x: Tensor, features: Tensor, backbone: Backbone, labels: Labels) -> Tensor:
    """TaskRes, written out."""
    weights = backbone.text_features(labels.fill()) + 0.5 * x
    norms = features.norm(dim=-1, keepdim=True) * weights.norm(dim=-1)
    return backbone.logit_scale * features @ weights.T / norms


def descend(x: Tensor, loss: Any, steps: int) -> Tensor:
    for _ in range(steps):
        x = x.detach().requires_grad_()
        x = x - RATE * torch.autograd.grad(loss(x), x)[0]
    return x.detach()


@pytest.mark.parametrize("pull", [0.0, 0.7])
def test_warm_takes_a_tenth_of_the_steps_down_the_written_loss(
    pull: float,
    eva64: Backbone,
    labels: Labels,
    target_data: FewShotData,
    beside_naive_code: Callable[..., None],
) -> None:
    start, train = residual(labels)["residual"], target_data.train

    def loss(x: Tensor) -> Tensor:
        own = logits_of(x, train.views[0], eva64, labels)
        right = own.log_softmax(-1)[torch.arange(len(train)), train.targets]
        return -right.mean() + pull / 2 * ((x - start) ** 2).sum()

    module = residual(labels)
    found = train_further(taskres(30), module, eva64, target_data, seeded(), pull)
    name = f"warm{f', pull {pull}' if pull else ''}"
    beside_naive_code(name, found["residual"], descend(start, loss, 3), 3)
    assert torch.equal(module["residual"], start)  # the old module is left as it was


def test_the_pull_is_the_one_that_classifies_the_validation_images_best(
    eva64: Backbone, labels: Labels, target_data: FewShotData
) -> None:
    method, module = taskres(100), residual(labels)
    tried = [train_further(method, module, eva64, target_data, seeded(), pull) for pull in PULLS]
    right = [accuracy(method.attach(one, eva64, labels), target_data.val) for one in tried]
    found = train_near(method, module, eva64, target_data, seeded())
    assert torch.equal(found["residual"], tried[right.index(max(right))]["residual"])
    way = Warm(Warm.Config(shots=3, pull=True))
    given = TransferData(way, labels=target_data)
    with torch.no_grad():
        answers = way.attach(method, module, eva64, labels, given)(target_data.val.plain)
    assert torch.allclose(answers, method.attach(found, eva64, labels)(target_data.val.plain))


def unlabelled(backbone: Backbone, labels: Labels, logits: Tensor, seed: int = 4) -> Unlabelled:
    features = draw(len(logits), 16, seed=seed)
    zero_shot = logits_of(torch.zeros(len(labels), 16), features, backbone, labels)
    old = OldAnswers(logits, zero_shot.detach())
    return Unlabelled(features, features, features, old, backbone.logit_scale)


def test_distillation_goes_down_the_written_divergence(
    eva64: Backbone, labels: Labels, beside_naive_code: Callable[..., None]
) -> None:
    answers = 3 * draw(12, len(labels), seed=7)
    images = unlabelled(eva64, labels, answers)

    def loss(x: Tensor) -> Tensor:
        p = logits_of(x, images.target, eva64, labels).softmax(-1)
        q = answers.softmax(-1)
        both = (p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1)
        return both.mean() / 2

    start = residual(labels)["residual"]
    found = distil(taskres(20), residual(labels), eva64, labels, images, seeded())
    beside_naive_code("distilled", found["residual"], descend(start, loss, 2), 2)


def test_retrained_starts_anew_down_the_written_loss(
    eva64: Backbone,
    labels: Labels,
    target_data: FewShotData,
    beside_naive_code: Callable[..., None],
) -> None:
    way, val = Retrained(Retrained.Config(shots=3)), target_data.val
    given = TransferData(way, labels=target_data)
    found = way.attach(taskres(3), residual(labels), eva64, labels, given)(val.plain)

    def loss(x: Tensor) -> Tensor:
        own = logits_of(x, target_data.train.views[0], eva64, labels)
        return F.cross_entropy(own, target_data.train.targets)

    naive = descend(torch.zeros(len(labels), 16), loss, 3)
    beside_naive_code("retrained", found, logits_of(naive, val.plain, eva64, labels), 3)


def test_gradfix_keeps_what_most_images_agree_with(
    eva64: Backbone, labels: Labels, target_data: FewShotData
) -> None:
    module, method = residual(labels), taskres(20)
    tau, votes = module["residual"], torch.zeros(len(labels), 16)
    for feature, label in zip(target_data.train.views[0], target_data.train.targets, strict=True):
        x = torch.zeros_like(tau).requires_grad_()
        loss = F.cross_entropy(logits_of(x, feature[None], eva64, labels), label[None])
        votes -= torch.autograd.grad(loss, x)[0].sign()
    kept = tau * (votes.sign() == tau.sign())
    assert 0 < int((kept != 0).sum()) < kept.numel()
    val = target_data.val
    right = [
        float((logits_of(f * kept, val.views[0], eva64, labels).argmax(-1) == val.targets).sum())
        for f in FACTORS
    ]
    found = mask_by_gradient(method, module, eva64, target_data)
    assert torch.allclose(found["residual"], FACTORS[right.index(max(right))] * kept, atol=1e-9)


def test_gradfix_takes_differences_from_zero_shot_and_training_what_is_trained(
    eva64: Backbone, labels: Labels, target_data: FewShotData
) -> None:
    served = {name for name, cls in builtin_methods().classes.items()
              if GradFix(GradFix.Config(shots=1)).serves(cls.card)}  # fmt: skip
    assert {"taskres", "bitfit", "clip_lora", "rosetta"} <= served
    assert served.isdisjoint({"coop", "kgcoop", "maple", "linear_probe", "cocoop"})
    with pytest.raises(NotTransferable, match="computed, not trained"):
        train_further(build("tip_adapter"), Module(), eva64, target_data, seeded())
    with pytest.raises(NotTransferable, match="no difference from"):
        mask_by_gradient(build("tip_adapter"), Module({}, {"alpha": draw(1)}), eva64, target_data)


def test_the_logit_change_is_turned_as_written(float64: None) -> None:
    source, target = 20 * draw(9, 12), 30 * draw(9, 12, seed=1)
    teacher = 20 * draw(9, 5, seed=2)
    change = learn_change(source, teacher, seeded())
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
    eva64: Backbone, labels: Labels, float64: None
) -> None:
    images = unlabelled(eva64, labels, 3 * draw(12, len(labels), seed=7))
    words = F.normalize(draw(20, 16, seed=8), dim=-1)
    method, module = taskres(20), residual(labels)
    answers = []
    for turn in (True, False):
        way = TransMiter(TransMiter.Config(turn=turn))
        given = TransferData(way, 1, words=WordPair(words, words), unlabelled=images)
        with torch.no_grad():
            attached = way.attach(method, module, eva64, labels, given)
            answers.append(attached(images.target))
    assert answers[0].shape == (12, len(labels))
    assert torch.allclose(*answers, atol=1e-9)


def without_mlps(backbone: Backbone, text: list[int], image: list[int]) -> Backbone:
    """A copy whose blocks of these numbers have an MLP that gives nothing."""
    model: Any = copy.deepcopy(backbone.model)
    trunk = getattr(model.visual, "trunk", None)
    blocks = model.visual.transformer.resblocks if trunk is None else trunk.blocks
    own = getattr(model, "text", model).transformer.resblocks
    with torch.no_grad():
        for block in [own[i] for i in text] + [blocks[i] for i in image]:
            *_, last = (part for part in block.mlp.modules() if isinstance(part, nn.Linear))
            last.weight.zero_()
            last.bias.zero_()
    return wrap(model, "without-mlps")


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_trans_peft_leaves_out_the_mlps_that_are_drawn(
    rate: float, backbone64: Backbone, labels: Labels
) -> None:
    dropping = DroppingBackbone(backbone64, rate, seeded(2))
    rng, depth = seeded(2), (backbone64.text.depth, backbone64.image.depth)
    gone = [torch.rand(n, generator=rng).lt(rate).nonzero().flatten().tolist() for n in depth]
    assert 0 < len(gone[0]) < depth[0] + (rate == 1)
    expected = without_mlps(backbone64, *gone)
    prompts = backbone64.text_prompts(labels.fill())
    assert torch.allclose(
        dropping.encode_prompts(prompts), expected.encode_prompts(prompts), atol=1e-9
    )
    size = backbone64.preprocess_settings["size"]
    hidden = backbone64.image.embed(draw(2, 3, size, size))
    assert torch.allclose(dropping.image.encode(hidden), expected.image.encode(hidden), atol=1e-9)
    # What is frozen for good has all of them.
    assert torch.equal(dropping.zero_shot(labels), backbone64.zero_shot(labels))


def test_trans_peft_at_zero_is_the_plain_fit(clip: Backbone, data: FewShotData) -> None:
    method = build("coop", max_steps=2, context_length=2)
    context = [
        method.fit(DroppingBackbone(clip, rate, seeded(3)), data, seeded())["context"]
        for rate in (0.0, 0.9)
    ]
    assert torch.equal(context[0], method.fit(clip, data, seeded())["context"])
    assert not torch.equal(*context)


def test_a_fit_that_runs_no_tower_has_no_mlp_to_leave_out() -> None:
    wrong = {"taskres": {"training": {"mlp_drop": 0.1}}}
    suite = suite_cards.read("mini").model_copy(update={"methods": wrong})
    with pytest.raises(CompatbenchError, match=r"'taskres'.*runs no tower"):
        resolve_settings(builtin_methods().get("taskres"), suite)
    assert resolve_settings(builtin_methods().get("coop"), suite).training.mlp_drop == 0
