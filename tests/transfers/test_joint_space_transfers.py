"""Transfers that map features equal their formulas."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from random_matrices import draw, orthonormal
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
from compatbench.transfers.anchors import Anchors, invert_covariance, learn_mixtures
from compatbench.transfers.images import Images, fit_net
from compatbench.transfers.lambda_orthogonal import LambdaOrthogonal, deviation, fit_affine
from compatbench.transfers.local_drift import LocalDrift, cluster, fit_local

WORDS = load_words()[::20]
FITTED = {
    name: MethodUnderTest(builtin_methods().get(name))
    for name in ("taskres", "linear_probe", "tip_adapter_f", "gda", "wise_ft")
}
TASKRES = FITTED["taskres"]
PROBE = FITTED["linear_probe"]


@cache
def other(size: int) -> Backbone:
    """Return a model whose joint space has another size."""
    return build_clip("other-joint", seed=8, embed_dim=size)


@cache
def rotated() -> Backbone:
    return rotate_clip(TASKRES.source, random_rotation(EMBED_DIM, 3))


@cache
def see(target: Backbone) -> tuple[WordPair, WordPair]:
    """Return features of words, and of some images, on the source and the target."""
    source = TASKRES.source
    images = unseen_images()
    images = torch.cat([images, images.flip(-1), images.flip(-2), images.mT])
    words = WordPair(encode_words(source, WORDS), encode_words(target, WORDS))
    seen = WordPair(source.encode_images(images), target.encode_images(images))
    return words, seen


def attach(
    label: str, name: str, target: Backbone, module: Module | None = None
) -> tuple[Tensor, Tensor]:
    """Return the logits of unseen images on the target with a transfer, and their features."""
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
    """Return the orthogonal Procrustes solution ``[e_t, e_s]``."""
    u, _, v = torch.linalg.svd(target.T @ source, full_matrices=False)
    return u @ v


def damped(x: Tensor, y: Tensor, weight: float, prior: Tensor) -> Tensor:
    """Return the M that minimises ‖x M − y‖² + w ‖M − M₀‖²."""
    more = weight**0.5 * torch.eye(x.shape[1]).double()
    return torch.linalg.lstsq(torch.cat([x, more]), torch.cat([y, more @ prior])).solution


def naive_map(label: str, target: Backbone) -> Tensor:
    """Return M ``[e_t, e_s]``: a module gets f M for a normalised feature f."""
    words, seen = see(target)
    a = words.source.double() - words.source.double().mean(0)
    b = words.target.double() - words.target.double().mean(0)
    s = F.normalize(seen.source.double(), dim=-1)
    t = F.normalize(seen.target.double(), dim=-1)
    by_words = turn(a, b)
    if label == "words":
        return by_words
    if label == "images":
        return turn(s, t)
    if label == "anchors":  # similarities to words, read back as a feature of the source
        return damped(a, b, float(a.square().sum()) / EMBED_DIM, 0 * by_words.T).T
    if label == "ridge":
        held = len(t) // 4
        errors = {}
        for damping in (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0):
            found = damped(t[held:], s[held:], len(t[held:]) * damping, by_words)
            errors[damping] = float((t[:held] @ found - s[:held]).norm())
        best = min(errors, key=lambda damping: errors[damping])
        return damped(t, s, len(t) * best, by_words)
    raise KeyError(label)


@pytest.mark.parametrize("size", [None, EMBED_DIM - 4, EMBED_DIM + 5])
@pytest.mark.parametrize("label", ["words", "images", "ridge", "anchors"])
def test_probe_gets_features_mapped_by_the_formula(label: str, size: int | None) -> None:
    target = PROBE.target if size is None else other(size)
    found, features = attach(label, "linear_probe", target)
    matrix = naive_map(label, target)
    seen = features.double() @ matrix
    expected = seen @ PROBE.module["weight"].double().T + PROBE.module["bias"]
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()
    if label != "words":
        return
    # A residual is carried forward: t + r R equals t Rᵀ + r after a rotation.
    found, _ = attach(label, "taskres", target)
    texts = target.text_features(LABELS.fill())
    weights = texts @ matrix.float() + 0.5 * TASKRES.module["residual"]
    cosines = F.normalize(seen, dim=-1) @ F.normalize(weights.double(), dim=-1).T
    assert torch.allclose(found.double(), target.logit_scale * cosines, atol=1e-3)


def test_net_starts_at_the_rotation_and_improves_on_it() -> None:
    target = draw(40, 7)
    noise = 0.3 * draw(40, 5, seed=2)
    source = F.normalize(target @ draw(7, 5, seed=1) + noise, dim=-1)
    rotation = turn(source, target).T

    def distance(steps: int) -> float:
        generator = torch.Generator().manual_seed(1)
        net = fit_net(source, target, rotation, Images.Config(width=16, steps=steps), generator)
        assert steps or torch.equal(net(target), target @ rotation.T)
        return float((net(target) - source).square().sum())

    assert distance(30) < 0.9 * distance(0)


def test_learned_anchors_lower_their_loss_and_are_mixtures_of_words() -> None:
    words = draw(50, 6) * torch.tensor([3.0, 1, 1, 1, 1, 0.2]).double()
    inverse = invert_covariance(words, 0.1)
    centred = words - words.mean(0)
    covariance = centred.T @ centred / 50
    expected = covariance + 0.1 * covariance.trace() / 6 * torch.eye(6).double()
    assert torch.allclose(inverse, torch.linalg.inv(expected))
    whitened = centred @ torch.linalg.cholesky(inverse)  # as far apart as by the root of Σ⁻¹

    def loss(steps: int) -> float:
        generator = torch.Generator().manual_seed(1)
        mixtures = learn_mixtures(words, inverse, Anchors.Config(steps=steps), generator)
        assert mixtures.shape == (12, 50)
        assert torch.allclose(mixtures.sum(1), torch.ones(12).double())
        anchors = mixtures @ whitened
        coverage = torch.cdist(whitened, anchors).min(1).values.mean()
        return float(0.95 * coverage - 0.05 * torch.pdist(anchors).mean())

    assert loss(30) < 0.8 * loss(0)


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_learned_anchors_describe_features_by_whitened_similarities(damping: float) -> None:
    transfer = Anchors(Anchors.Config(learned=True, damping=damping))
    a = draw(50, 6)
    b = draw(50, 7, seed=1)

    def find_matrix(target: Tensor) -> Tensor:
        _, map_features = transfer.find_map(TransferData(transfer, words=WordPair(a, target)))
        return map_features(torch.eye(target.shape[1]).double())

    mixtures = learn_mixtures(
        a, invert_covariance(a, damping), transfer.config, torch.Generator().manual_seed(0)
    )
    sides = []
    for words in (a, b):
        anchors = mixtures @ (words - words.mean(0)) @ invert_covariance(words, damping)
        sides.append(anchors - anchors.mean(0))
    left, right = sides
    weight = damping * float(left.square().sum()) / 6
    expected = damped(left, right, weight, torch.zeros(6, 7).double()).T
    assert torch.allclose(find_matrix(b), expected)
    # Undamped anchors of two models that differ by an affine map describe features alike.
    if damping == 0:
        change = draw(6, 6, seed=3)
        found = find_matrix(a @ change + 2)
        assert torch.allclose(change @ found, torch.eye(6).double())
        assert torch.allclose(find_matrix(a), torch.eye(6).double())


def test_lambda_orthogonal_lies_between_the_rotation_and_the_least_squares() -> None:
    target = draw(60, 7) + 1
    source = target @ draw(7, 5, seed=1) + 0.3 * draw(60, 5, seed=2)
    x = target - target.mean(0)
    y = source - source.mean(0)

    def fit(bound: float) -> Tensor:
        matrix, bias = fit_affine(source, target, bound, weight=10.0, steps=100)
        assert torch.allclose(bias, source.mean(0) - target.mean(0) @ matrix)
        return matrix

    assert torch.allclose(fit(0), turn(y, x))
    least_squares = torch.linalg.lstsq(x, y).solution
    assert torch.allclose(fit(1e3), least_squares)
    # Between them, W is a minimum of the formula: its gradient is 0.
    w = fit(0.5).requires_grad_()
    excess = torch.linalg.norm(w.T @ w - torch.eye(5)) - 0.5
    loss = (x @ w - y).square().sum() / 60 + 10 * excess.clamp_min(0) ** 2
    assert float(torch.autograd.grad(loss, w)[0].abs().max()) < 1e-4
    assert 0 < float(excess.detach()) < 0.3 * float(deviation(least_squares))


def test_lambda_orthogonal_takes_the_bound_that_is_best_on_held_out_images() -> None:
    target = F.normalize(draw(60, 7), dim=-1)
    nearly_orthogonal = orthonormal(7, 7, seed=1) + 0.06 * draw(7, 7, seed=11)
    source = target @ nearly_orthogonal + 0.1 * draw(60, 7, seed=2)
    transfer = LambdaOrthogonal()
    bounds = transfer.config.bounds
    errors = []
    for bound in bounds:
        matrix, bias = fit_affine(source[15:], target[15:], bound * 7**0.5, 10.0, 50)
        errors.append(float((target[:15] @ matrix + bias - source[:15]).square().sum()))
    best = bounds[errors.index(min(errors))]
    assert transfer.choose_bound(source, target) == best
    assert best not in (bounds[0], bounds[-1])


def test_local_drift_rotates_by_the_cluster_whose_mean_is_nearest() -> None:
    target = F.normalize(draw(60, 7), dim=-1)
    source = F.normalize(target @ draw(7, 5, seed=1) + 0.2 * draw(60, 5, seed=2), dim=-1)
    numbers = cluster(source, 4, seed=1)
    assert numbers.unique().tolist() == [0, 1, 2, 3]
    seen = F.normalize(draw(20, 7, seed=5), dim=-1)
    found = fit_local(source, target, numbers, 0.1)(seen)
    for feature, mapped in zip(seen, found, strict=True):
        distances = [float((feature - target[numbers == k].mean(0)).norm()) for k in range(4)]
        rows = numbers == distances.index(min(distances))
        near = target[rows].T @ source[rows] / int(rows.sum())
        u, _, v = torch.linalg.svd(near + 0.1 * turn(source, target), full_matrices=False)
        assert torch.allclose(mapped, feature @ u @ v)
    # One cluster, and clusters shrunk towards the rotation of all images, give that rotation.
    whole = seen @ turn(source, target)
    assert torch.allclose(fit_local(source, target, 0 * numbers, 0.1)(seen), whole)
    assert torch.allclose(fit_local(source, target, numbers, 1e9)(seen), whole)


def test_local_drift_takes_the_damping_that_is_best_on_held_out_images() -> None:
    target = F.normalize(draw(90, 7), dim=-1)
    drift = 0.5 * (target @ draw(7, 7, seed=5)).clamp_min(0)  # differs from place to place
    source = target @ orthonormal(7, 7, seed=1) + drift + 0.1 * draw(90, 7, seed=2)
    source = F.normalize(source, dim=-1)
    numbers = cluster(source[22:], 8, seed=3)
    errors = {}
    for damping in (1e-3, 1e-2, 0.1, 1.0):
        mapped = fit_local(source[22:], target[22:], numbers, damping)(target[:22])
        errors[damping] = float((mapped - source[:22]).square().sum())
    best = min(errors, key=lambda damping: errors[damping])
    assert LocalDrift().choose_damping(source, target, seed=3) == best
    assert best not in (1e-3, 1.0)


MAPPED = ("images", "images+mlp", "ridge", "words+raw", "lambda-orthogonal", "local-drift")


@pytest.mark.parametrize("label", MAPPED)
@pytest.mark.parametrize("name", ["taskres", "linear_probe"])
def test_transfers_undo_a_rotation_of_the_source(name: str, label: str) -> None:
    """This holds with and without a zero-shot term."""
    expected = FITTED[name].logits(TASKRES.source)
    found, _ = attach(label, name, rotated())
    close = 0.15 if label == "images+mlp" else 2e-3
    assert float((found - expected).abs().max()) <= close * float(expected.abs().max())


def test_words_change_nothing_on_the_source() -> None:
    found, features = attach("words", "linear_probe", PROBE.source)
    assert torch.equal(found, features @ PROBE.module["weight"].T + PROBE.module["bias"])
    words = encode_words(PROBE.source, WORDS)
    assert find_rotation(words, words + 1e-5) is None
    transfer = find_transfer("words")
    served = set()
    for name, cls in builtin_methods().classes.items():
        if transfer.serves(cls.card):
            served.add(name)
    assert {"linear_probe", "taskres", "tip_adapter_f", "clip_adapter", "lfa"} <= served
    assert served.isdisjoint({"coop", "kgcoop", "contcoop", "zeroshot", "clip_lora", "plot"})


@pytest.mark.parametrize("label", ["words", "images", "ridge", "lambda-orthogonal"])
@pytest.mark.parametrize("name", ["taskres", "tip_adapter_f", "gda", "wise_ft"])
def test_module_at_zero_equals_zero_shot_in_a_narrower_target(name: str, label: str) -> None:
    target = other(EMBED_DIM - 4)
    tensors = dict(FITTED[name].module.tensors)
    for key in FITTED[name].card.zero_shot_at:
        tensors[key] = torch.zeros_like(tensors[key])
    found, features = attach(label, name, target, Module(tensors))
    assert torch.allclose(found, zero_shot(target, features), atol=1e-3)


def test_kept_and_delta_use_the_answers_of_the_old_model() -> None:
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
