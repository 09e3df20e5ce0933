"""The ways of bringing a module along, each against its formula written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from random_matrices import draw
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.backbone.joint_maps import find_affine, find_ridge, find_turn, paired
from compatbench.backbone.words import encode_words, load_words
from compatbench.extras.check.method_under_test import LABELS, MethodUnderTest, unseen_images
from compatbench.extras.check.models import EMBED_DIM, random_rotation, rotate_clip
from compatbench.method import Module
from compatbench.method.registry import builtin_methods, find_transfer
from compatbench.method.transfer import OldAnswers, TransferData, Unlabelled, WordPair
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


def test_the_turn_of_images_is_the_best_orthogonal_map() -> None:
    source, target = pairs(6, 6)
    found = find_turn(source, target)
    naive = torch.linalg.svd(target.T @ source)
    assert torch.allclose(found.T, naive.U @ naive.Vh, atol=1e-9)
    assert torch.allclose(find_turn(target @ found.T, target), found, atol=1e-9)


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
    for name, tested in FITTED.items():
        turned = rotate_clip(tested.source, random_rotation(EMBED_DIM, 3))
        expected = tested.logits(tested.source)
        found, _, _ = attach(label, name, turned)
        close = 0.15 if label == "images+mlp" else 2e-3
        assert float((found - expected).abs().max()) <= close * float(expected.abs().max())


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
    own = (
        tested.target.logit_scale
        * F.normalize(features, dim=-1)
        @ tested.target.zero_shot(LABELS).T
    )
    assert torch.equal(found["kept"], old.logits)
    naive = own.log_softmax(-1) + old.logits.log_softmax(-1) - old.zero_shot.log_softmax(-1)
    assert torch.allclose(found["delta"].softmax(-1), naive.softmax(-1), atol=1e-6)
