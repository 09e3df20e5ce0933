"""Transfers that map one joint space to another, each against its formula written out."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from random_matrices import draw
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.backbone.joint_maps import find_rotation
from compatbench.backbone.words import encode_words, load_words
from compatbench.extras.check.method_under_test import LABELS, MethodUnderTest, unseen_images
from compatbench.extras.check.models import (
    EMBED_DIM,
    build_clip,
    random_rotation,
    rotate_clip,
)
from compatbench.method import Module
from compatbench.method.registry import builtin_methods, find_transfer
from compatbench.method.transfer import OldAnswers, TransferData, Unlabelled, WordPair
from compatbench.transfers.images import Images, fit_net

WORDS = load_words()[::20]
FITTED = {
    name: MethodUnderTest(builtin_methods().get(name))
    for name in ("taskres", "linear_probe", "tip_adapter_f", "gda", "wise_ft")
}
TASKRES, PROBE = FITTED["taskres"], FITTED["linear_probe"]


@cache
def other(size: int) -> Backbone:
    """A model whose joint space has another size."""
    return build_clip("other-joint", seed=8, embed_dim=size)


@cache
def rotated() -> Backbone:
    return rotate_clip(TASKRES.source, random_rotation(EMBED_DIM, 3))


@cache
def see(target: Backbone) -> tuple[WordPair, WordPair]:
    """Features of words, and of some images, on the source and the target."""
    images = unseen_images()
    images = torch.cat([images, images.flip(-1), images.flip(-2), images.mT])
    words, seen = (
        WordPair(*(encode(one) for one in (TASKRES.source, target)))
        for encode in (lambda one: encode_words(one, WORDS), lambda one: one.encode_images(images))
    )
    return words, seen


def attach(
    label: str, name: str, target: Backbone, module: Module | None = None
) -> tuple[Tensor, Tensor]:
    """Return the logits of unseen images on the target through a transfer, and their features."""
    tested = FITTED[name]
    transfer = find_transfer(label)
    words, seen = see(target)
    nothing = torch.zeros(len(seen.target), len(LABELS))
    unlabelled = Unlabelled(*seen, seen.target, OldAnswers(nothing, nothing))
    data = TransferData(transfer, words=words, unlabelled=unlabelled)
    features = target.encode_images(unseen_images())
    with torch.no_grad():
        classify = transfer.attach(tested.build(), module or tested.module, target, LABELS, data)
        return classify(features), features


def zero_shot(target: Backbone, features: Tensor) -> Tensor:
    return target.logit_scale * F.normalize(features, dim=-1) @ target.zero_shot(LABELS).T


def turn(source: Tensor, target: Tensor) -> Tensor:
    """The orthogonal Procrustes solution ``[e_t, e_s]``."""
    u, _, v = torch.linalg.svd(target.T @ source, full_matrices=False)
    return u @ v


def damped(x: Tensor, y: Tensor, weight: float, prior: Tensor) -> Tensor:
    """The M that minimises ‖x M − y‖² + w ‖M − M₀‖²."""
    more = weight**0.5 * torch.eye(x.shape[1]).double()
    return torch.linalg.lstsq(torch.cat([x, more]), torch.cat([y, more @ prior])).solution


def naive_map(transfer: str, target: Backbone) -> tuple[Tensor, Tensor | float]:
    """M ``[e_t, e_s]`` and b: what a module sees of a normalised feature f is f M + b."""
    words, seen = see(target)
    a, b = (one.double() - one.double().mean(0) for one in words)
    s, t = (F.normalize(one.double(), dim=-1) for one in seen)
    by_words, by_images = turn(a, b), turn(s, t)
    if transfer == "anchors":  # similarities to words, read back as a feature of the source
        return damped(a, b, float(a.square().sum()) / EMBED_DIM, 0 * by_words.T).T, 0.0
    if transfer == "ridge":
        held, errors = len(t) // 4, {}
        for damping in (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0):
            found = damped(t[held:], s[held:], len(t[held:]) * damping, by_words)
            errors[damping] = float((t[:held] @ found - s[:held]).norm())
        return damped(t, s, len(t) * min(errors, key=lambda one: errors[one]), by_words), 0.0
    return by_words if transfer == "words" else by_images, 0.0


@pytest.mark.parametrize("size", [None, EMBED_DIM - 4, EMBED_DIM + 5])
@pytest.mark.parametrize("transfer", ["words", "images", "ridge", "anchors"])
def test_a_probe_sees_features_as_a_map_s_formula_has_them(transfer: str, size: int | None) -> None:
    target = PROBE.target if size is None else other(size)
    found, features = attach(transfer, "linear_probe", target)
    matrix, bias = naive_map(transfer, target)
    lengths = features.double().norm(dim=-1, keepdim=True)
    seen = lengths * (features.double() / lengths @ matrix + bias)
    expected = seen @ PROBE.module["weight"].double().T + PROBE.module["bias"]
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()
    if transfer != "words":
        return
    # A residual is carried forward: t + r R are t Rᵀ + r, turned.
    found, _ = attach(transfer, "taskres", target)
    weights = (
        target.text_features(LABELS.fill()) @ matrix.float() + 0.5 * TASKRES.module["residual"]
    )
    cosines = F.normalize(seen, dim=-1) @ F.normalize(weights.double(), dim=-1).T
    assert torch.allclose(found.double(), target.logit_scale * cosines, atol=1e-3)


def test_a_net_starts_at_the_turn_and_comes_nearer() -> None:
    target, noise = draw(40, 7), 0.3 * draw(40, 5, seed=2)
    source = F.normalize(target @ draw(7, 5, seed=1) + noise, dim=-1)
    rotation = turn(source, target).T

    def distance(steps: int) -> float:
        generator = torch.Generator().manual_seed(1)
        net = fit_net(source, target, rotation, Images.Config(width=16, steps=steps), generator)
        assert steps or torch.equal(net(target), target @ rotation.T)
        return float((net(target) - source).square().sum())

    assert distance(30) < 0.9 * distance(0)


MAPPED = ("images", "images+mlp", "ridge", "words+raw")


@pytest.mark.parametrize("transfer", MAPPED)
@pytest.mark.parametrize("name", ["taskres", "linear_probe"])
def test_a_rotated_source_is_read_as_the_source(name: str, transfer: str) -> None:
    """All transfers of the joint space undo a rotation, with and without a zero-shot term."""
    expected, (found, _) = FITTED[name].logits(TASKRES.source), attach(transfer, name, rotated())
    close = 0.15 if transfer == "images+mlp" else 2e-3
    assert float((found - expected).abs().max()) <= close * float(expected.abs().max())


def test_on_the_source_itself_nothing_is_turned() -> None:
    found, features = attach("words", "linear_probe", PROBE.source)
    assert torch.equal(found, features @ PROBE.module["weight"].T + PROBE.module["bias"])
    words = encode_words(PROBE.source, WORDS)
    assert find_rotation(words, words + 1e-5) is None
    served = {n for n, cls in builtin_methods().classes.items()
              if find_transfer("words").serves(cls.card)}  # fmt: skip
    assert {"linear_probe", "taskres", "tip_adapter_f", "clip_adapter", "lfa"} <= served
    assert served.isdisjoint({"coop", "kgcoop", "contcoop", "zeroshot", "clip_lora", "plot"})


@pytest.mark.parametrize("transfer", ["words", "images", "ridge"])
@pytest.mark.parametrize("name", ["taskres", "tip_adapter_f", "gda", "wise_ft"])
def test_in_a_narrower_target_a_module_at_zero_is_its_zero_shot(name: str, transfer: str) -> None:
    target = other(EMBED_DIM - 4)
    tensors, zero_at = FITTED[name].module.tensors, FITTED[name].card.zero_shot_at
    zero = {key: torch.zeros_like(t) if key in zero_at else t for key, t in tensors.items()}
    found, features = attach(transfer, name, target, Module(zero))
    assert torch.allclose(found, zero_shot(target, features), atol=1e-3)


def test_the_old_model_alone_and_in_a_sum() -> None:
    old = OldAnswers(draw(7, 5, seed=6).float(), draw(7, 5, seed=7).float())
    features = TASKRES.target.encode_images(unseen_images())
    found = {}
    for label in ("kept", "delta"):
        transfer = find_transfer(label)
        given = TASKRES.build(), TASKRES.module, TASKRES.target, LABELS, TransferData(transfer)
        found[label] = transfer.attach(*given)(features, old)  # type: ignore[call-arg]
    assert torch.equal(found["kept"], old.logits)
    own = zero_shot(TASKRES.target, features)
    naive = own.log_softmax(-1) + old.logits.log_softmax(-1) - old.zero_shot.log_softmax(-1)
    assert torch.allclose(found["delta"].softmax(-1), naive.softmax(-1), atol=1e-6)
