"""Transfers, each against its formula written out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from random_matrices import draw
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.backbone.joint_maps import (
    find_affine,
    find_ridge,
    find_rotation,
    find_turn,
    paired,
)
from compatbench.backbone.words import encode_words, load_words
from compatbench.extras.check.method_under_test import LABELS, MethodUnderTest, unseen_images
from compatbench.extras.check.models import (
    EMBED_DIM,
    build_clip,
    random_rotation,
    rotate_clip,
    wrap,
)
from compatbench.method import Module
from compatbench.method.predictions import predict
from compatbench.method.registry import builtin_methods, find_transfer
from compatbench.method.transfer import OldAnswers, TransferData, Unlabelled, WordPair
from compatbench.transfers._shared import survival
from compatbench.transfers._shared.survival import Estimator, FourAnswers, describe_answers
from compatbench.transfers.anchors import read_back
from compatbench.transfers.images import Images, fit_net

WORDS = load_words()[::20]
FITTED = {
    name: MethodUnderTest(builtin_methods().get(name)) for name in ("taskres", "linear_probe")
}


def pairs(source: int = 5, target: int = 7, count: int = 40) -> tuple[Tensor, Tensor]:
    """Features of one set of images on two models that are alike but for noise."""
    new = draw(count, target)
    return paired(new @ draw(target, source, seed=1) + 0.3 * draw(count, source, seed=2), new)


def attach(
    label: str, name: str, target: Backbone, module: Module | None = None
) -> tuple[Tensor, Tensor, TransferData]:
    """Logits of unseen images on the target, their features there, and what was given."""
    tested, transfer = FITTED[name], find_transfer(label)
    images = unseen_images()
    pool = torch.cat([images, images.flip(-1), images.flip(-2), images.transpose(-1, -2)])
    seen = [one.encode_images(pool) for one in (tested.source, target)]
    nothing = torch.zeros(len(pool), len(LABELS))
    unlabelled = Unlabelled(*seen, seen[1], OldAnswers(nothing, nothing))
    words = WordPair(*(encode_words(one, WORDS) for one in (tested.source, target)))
    data = TransferData(transfer, words=words, unlabelled=unlabelled)
    features = target.encode_images(images)
    with torch.no_grad():
        classify = transfer.attach(tested.build(), module or tested.module, target, LABELS, data)
        return classify(features), features, data


def test_an_affine_map_is_the_ridge_regression_cut_to_its_rank() -> None:
    source, target = pairs()
    turn = find_turn(source, target)
    matrix, bias = find_affine(source, target, turn, 2, 0.05)
    left = source - target @ turn.T
    x, y = target - target.mean(0), left - left.mean(0)
    rows = torch.cat([x, (40 * 0.05) ** 0.5 * torch.eye(7).double()])
    full = torch.linalg.lstsq(rows, torch.cat([y, torch.zeros(7, 5).double()])).solution
    u, s, v = torch.linalg.svd(x @ full, full_matrices=False)
    fitted = target @ turn.T + left.mean(0) + (u[:, :2] * s[:2]) @ v[:2]
    assert torch.allclose(target @ matrix + bias, fitted, atol=1e-9)
    assert torch.linalg.matrix_rank(matrix - turn.T) == 2


def test_a_net_starts_at_the_turn_and_comes_nearer() -> None:
    source, target = pairs()
    turn = find_turn(source, target)

    def distance(steps: int) -> float:
        generator = torch.Generator().manual_seed(1)
        net = fit_net(source, target, turn, Images.Config(width=16, steps=steps), generator)
        assert steps or torch.equal(net(target), target @ turn.T)
        return float((net(target) - source).square().sum())

    assert distance(30) < 0.9 * distance(0)


def test_a_ridge_map_lies_between_least_squares_and_its_prior() -> None:
    source, target = pairs()
    prior = draw(7, 5, seed=3)
    rows = torch.cat([target, (40 * 0.02) ** 0.5 * torch.eye(7).double()])
    wanted = torch.cat([source, (40 * 0.02) ** 0.5 * prior])
    naive = torch.linalg.lstsq(rows, wanted).solution
    assert torch.allclose(find_ridge(source, target, prior, 0.02), naive, atol=1e-9)
    plain = torch.linalg.lstsq(target, source).solution
    assert torch.allclose(find_ridge(source, target, prior, 0.0), plain, atol=1e-9)
    assert torch.allclose(find_ridge(source, target, prior, 1e12), prior, atol=1e-9)


def test_a_linear_head_is_carried_by_its_similarities_to_the_words() -> None:
    """W becomes Γ B with Γ = W A⁺."""
    (words, own), head, features = pairs(), draw(3, 5, seed=4), draw(2, 7, seed=5)
    a, b = words - words.mean(0), own - own.mean(0)
    found = features @ read_back(words, own, 0.0) @ head.T
    assert torch.allclose(found, features @ (head @ torch.linalg.pinv(a) @ b).T, atol=1e-9)
    weight = (2.0 * a.square().sum() / 5).sqrt()
    rows = torch.cat([a, weight * torch.eye(5).double()])
    naive = torch.linalg.lstsq(rows, torch.cat([b, torch.zeros(5, 7).double()])).solution.T
    assert torch.allclose(read_back(words, own, 2.0), naive, atol=1e-9)


def test_anchors_carry_a_head_to_another_model() -> None:
    tested = FITTED["linear_probe"]
    found, features, data = attach("anchors", "linear_probe", tested.target)
    a, b = (one.double() - one.double().mean(0) for one in data.words)
    damped = a.T @ a + a.square().sum() / EMBED_DIM * torch.eye(EMBED_DIM)
    head = tested.module["weight"].double() @ torch.linalg.inv(damped) @ a.T @ b
    expected = features.double() @ head.T + tested.module["bias"].double()
    assert torch.allclose(found.double(), expected, atol=1e-4)


MAPPED = ("images", "images+affine", "images+mlp", "ridge", "words-mean", "words+raw")


@pytest.mark.parametrize("label", MAPPED)
def test_a_rotated_source_is_read_as_the_source(label: str) -> None:
    """All ways of the joint space undo a rotation, with and without a zero-shot term."""
    for name in ("taskres", "linear_probe"):
        tested = FITTED[name]
        turned = rotate_clip(tested.source, random_rotation(EMBED_DIM, 3))
        expected = tested.logits(tested.source)
        found, _, _ = attach(label, name, turned)
        close = 0.15 if label == "images+mlp" else 2e-3
        assert float((found - expected).abs().max()) <= close * float(expected.abs().max())


@pytest.mark.parametrize("size", [None, EMBED_DIM - 4, EMBED_DIM + 5])
def test_words_turn_a_module_by_their_procrustes_solution(size: int | None) -> None:
    """Of a probe the inputs; a residual is carried forward: t + r R are t Rᵀ + r, turned."""
    tested = FITTED["linear_probe"]
    target = tested.target if size is None else build_clip("other-joint", 8, embed_dim=size)
    found, features, data = attach("words", "linear_probe", target)
    a, b = (words.double() - words.double().mean(0) for words in data.words)
    u, _, v = torch.linalg.svd(a.T @ b, full_matrices=False)
    head, turn = tested.module, (u @ v).float()
    assert torch.allclose(found, features @ turn.T @ head["weight"].T + head["bias"], atol=1e-4)
    found, _, _ = attach("words", "taskres", target)
    weights = target.text_features(LABELS.fill()) @ turn.T
    weights = weights + 0.5 * FITTED["taskres"].module["residual"]
    cosines = F.normalize(features @ turn.T, dim=-1) @ F.normalize(weights, dim=-1).T
    assert torch.allclose(found, target.logit_scale * cosines, atol=1e-3)


def test_on_the_source_itself_nothing_is_turned() -> None:
    source = FITTED["taskres"].source
    found, features, data = attach("words", "linear_probe", source)
    head = FITTED["linear_probe"].module
    assert torch.equal(found, features @ head["weight"].T + head["bias"])
    assert find_rotation(data.words.source, data.words.source + 1e-5) is None
    served = {n for n, cls in builtin_methods().classes.items()
              if find_transfer("words").serves(cls.card)}  # fmt: skip
    assert {"linear_probe", "taskres", "tip_adapter_f", "clip_adapter", "lfa"} <= served
    assert served.isdisjoint({"coop", "kgcoop", "contcoop", "zeroshot", "clip_lora", "plot"})


def test_in_a_narrower_target_a_module_at_zero_is_its_zero_shot() -> None:
    other = build_clip("narrow-joint", seed=8, embed_dim=EMBED_DIM - 4)
    for name in ("taskres", "tip_adapter_f", "gda", "wise_ft"):
        FITTED.setdefault(name, MethodUnderTest(cls := builtin_methods().get(name)))
        zero = {
            key: torch.zeros_like(t) if key in cls.card.zero_shot_at else t
            for key, t in FITTED[name].module.tensors.items()
        }
        found, features, _ = attach("words", name, other, Module(zero))
        cosines = F.normalize(features, dim=-1) @ other.zero_shot(LABELS).T
        assert torch.allclose(found, other.logit_scale * cosines, atol=1e-3), name


def test_what_is_seen_moves_by_the_means_and_zero_shot_stays_the_targets() -> None:
    tested = FITTED["linear_probe"]
    found, features, data = attach("words-mean", "linear_probe", tested.target)
    source, own = (F.normalize(one.double(), dim=-1) for one in data.words)
    u, _, v = torch.linalg.svd((source - source.mean(0)).T @ (own - own.mean(0)))
    f_s, f_t = paired(data.unlabelled.source, data.unlabelled.target)
    lengths = features.double().norm(dim=-1, keepdim=True)
    seen = lengths * ((features.double() / lengths - f_t.mean(0)) @ (u @ v).T + f_s.mean(0))
    weight, bias = tested.module["weight"].double(), tested.module["bias"].double()
    assert torch.allclose(found.double(), seen @ weight.T + bias, atol=1e-4)
    tested = FITTED["taskres"]
    zero = Module({"residual": torch.zeros_like(tested.module["residual"])})
    found, features, _ = attach("words-mean", "taskres", tested.target, zero)
    own = F.normalize(features, dim=-1) @ tested.target.zero_shot(LABELS).T
    assert torch.allclose(found, tested.target.logit_scale * own, atol=1e-3)


def test_the_old_model_alone_and_in_a_sum() -> None:
    tested = FITTED["taskres"]
    old = OldAnswers(draw(8, 5, seed=6).float(), draw(8, 5, seed=7).float())
    features = tested.target.encode_images(unseen_images())
    old = old[torch.arange(len(features)) % 8]
    found = {}
    for label in ("kept", "delta"):
        transfer = find_transfer(label)
        given = TransferData(transfer)
        classify = transfer.attach(tested.build(), tested.module, tested.target, LABELS, given)
        found[label] = classify(features, old)  # type: ignore[call-arg]
    cosines = F.normalize(features, dim=-1) @ tested.target.zero_shot(LABELS).T
    own = tested.target.logit_scale * cosines
    assert torch.equal(found["kept"], old.logits)
    naive = own.log_softmax(-1) + old.logits.log_softmax(-1) - old.zero_shot.log_softmax(-1)
    assert torch.allclose(found["delta"].softmax(-1), naive.softmax(-1), atol=1e-6)


@pytest.mark.parametrize("name", ["taskres", "clip_lora"])  # of features, and of hidden tokens
def test_the_expected_gain_decides_between_the_module_and_zero_shot(
    name: str, monkeypatch: pytest.MonkeyPatch, beside_naive_code: Callable[..., None]
) -> None:
    tested, transfer = MethodUnderTest(builtin_methods().get(name)), find_transfer("gated")
    method = tested.build()
    source, target = (
        wrap(copy.deepcopy(each.model).double(), each.name)
        for each in (tested.source, tested.target)
    )
    images = draw(60, *unseen_images().shape[1:], seed=1)
    # Far from zero-shot, so that answers differ.
    noise = {n: t + draw(*t.shape, seed=2) for n, t in tested.module.trained.items()}
    module = Module(noise, tested.module.stored, tested.module.about)
    features = [backbone.encode_images(images) for backbone in (source, target)]
    tokens, logits = [], []
    for backbone, seen in zip((source, target), features, strict=True):
        tokens.append(backbone.encode_images(images, method.image_input(backbone)))
        with torch.no_grad():
            logits.append(method.attach(module, backbone, LABELS)(tokens[-1]))
        cosines = F.normalize(seen, dim=-1) @ backbone.zero_shot(LABELS).T
        logits.append(backbone.logit_scale * cosines)
    old, own, zero_shot = OldAnswers(*logits[:2]), *logits[2:]
    unlabelled = Unlabelled(*features, tokens[1], old)
    data = TransferData(transfer, unlabelled=unlabelled, source=source)
    differ = describe_answers(FourAnswers(*map(predict, logits)), len(LABELS))["differ"]
    assert differ > 0
    for weight, expected, says in (
        (1.0, own, f"keeps the module: a gain of +{100 * differ:.1f}"),
        (-1.0, zero_shot, f"falls back to zero-shot: a gain of -{100 * differ:.1f}"),
    ):
        estimator = Estimator(("differ", "sure"), (weight, 0.0), 0.0, 0.0, 0.02)
        find = mock.Mock(return_value=estimator)
        monkeypatch.setattr(survival, "find_estimator", find)
        with torch.no_grad():
            classify = transfer.attach(method, module, target, LABELS, data)
            row = f"gated, {name}, {'kept' if weight > 0 else 'zero-shot'}"
            beside_naive_code(row, classify(tokens[1]), expected)
        assert says in classify.note  # type: ignore[attr-defined]
        find.assert_called_once_with("images", source.name, target.name)
