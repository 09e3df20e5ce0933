"""Rotations fitted on texts, and rotated backbones: the same model in other coordinates."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_matrices import draw, orthonormal
from scipy.spatial import procrustes
from torch import Tensor

from compatbench.backbone import DENSE, FEATURES, POOLED, Backbone, ImageInput, RotatedBackbone
from compatbench.backbone.joint_maps import fit_rotation
from compatbench.extras.check.method_under_test import LABELS, unseen_images
from compatbench.extras.check.models import EMBED_DIM, synthetic_models

SIZES = [EMBED_DIM - 6, EMBED_DIM, EMBED_DIM + 5]


@pytest.fixture(params=["source", "target"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return getattr(synthetic_models(), request.param)


@pytest.mark.parametrize("size", SIZES)
def test_rotated_backbone_rotates_features_but_not_hidden_tokens(
    backbone: Backbone, size: int
) -> None:
    rotation = orthonormal(size, EMBED_DIM, seed=1).float()
    texts = LABELS.fill()
    images = unseen_images()
    hidden = ImageInput("hidden", 3)
    before = backbone.text_features(texts)
    images_before = backbone.encode_images(images)
    turned = RotatedBackbone(backbone, rotation)
    assert (turned.embed_dim, backbone.embed_dim) == (size, EMBED_DIM)
    for wanted in (FEATURES, DENSE):
        expected = backbone.encode_images(images, wanted) @ rotation.T
        assert torch.allclose(turned.encode_images(images, wanted), expected, atol=1e-5)
    expected = before @ rotation.T
    assert torch.allclose(turned.text_features(texts), expected, atol=1e-5)
    weights = torch.nn.functional.normalize(expected, dim=-1)
    assert torch.allclose(turned.zero_shot(LABELS), weights, atol=1e-5)
    tokens = turned.encode_images(images, hidden)
    assert torch.equal(tokens, backbone.encode_images(images, hidden))
    for dense in (False, True):
        expected = backbone.image.encode(tokens, block=3, dense=dense) @ rotation.T
        found = turned.image.encode(tokens, block=3, dense=dense)
        assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(backbone.encode_images(images), images_before)
    assert turned.weights_key != backbone.weights_key


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["image", "text"])
def test_projections_lead_to_the_rotated_space(backbone: Backbone, kind: str, size: int) -> None:
    rotation = orthonormal(size, EMBED_DIM, seed=1).float()
    turned = RotatedBackbone(backbone, rotation)
    images = unseen_images()
    prompts = backbone.text_prompts(LABELS.fill())
    if kind == "image":
        rows = turned.encode_images(images, POOLED)
        name = "proj"
        norm = "ln_post.bias"
        assert torch.equal(rows, backbone.encode_images(images, POOLED))
        encode = partial(turned.image.encode, images)
        whole = backbone.encode_images(images)
        assert torch.allclose(turned.image.project(rows), whole @ rotation.T, atol=1e-5)
    else:
        rows = backbone.text.project_by(torch.eye(backbone.token_width)).encode(prompts)
        name = "text_projection"
        norm = "ln_final.bias"
        encode = partial(turned.encode_prompts, prompts)
        whole = backbone.encode_prompts(prompts)
    tower = getattr(turned, kind)
    projection = tower.weights[name]
    same = {norm: getattr(backbone, kind).weights[norm]}
    assert torch.allclose(encode(weights=same), whole @ rotation.T, atol=1e-4)
    delta = 0.1 * torch.randn(projection.shape, generator=torch.Generator().manual_seed(2))
    expected = whole @ rotation.T + rows @ delta
    for more in ({}, same):
        found = encode(weights={name: projection + delta, **more})
        assert torch.allclose(found, expected, atol=1e-4)
    assert getattr(backbone, kind).weights[name].shape[1] == EMBED_DIM


sizes = st.integers(2, 9)
seeds = st.integers(0, 10_000)


@given(source=sizes, extra=st.integers(0, 5), seed=seeds)
def test_rotation_into_an_equal_or_wider_space_is_found_exactly(
    source: int, extra: int, seed: int
) -> None:
    features = draw(40, source, seed=seed)
    shift = draw(1, source + extra, seed=seed + 1)
    turn = orthonormal(source, source + extra, seed + 2)
    found = fit_rotation(features, features @ turn + shift)
    assert torch.allclose(found.rotation, turn, atol=1e-6)
    assert found.residual < 1e-9
    assert found.rank == source
    assert torch.allclose(found.source_mean @ turn + shift[0], found.target_mean, atol=1e-9)


@given(source=sizes, target=sizes, seed=seeds)
def test_fitted_rotation_is_semi_orthogonal_and_optimal(
    source: int, target: int, seed: int
) -> None:
    a = draw(30, source, seed=seed)
    b = draw(30, target, seed=seed + 1)
    r = fit_rotation(a, b).rotation
    gram = r @ r.T if source <= target else r.T @ r
    assert torch.allclose(gram, torch.eye(min(source, target)).double(), atol=1e-9)

    def gained(rotation: Tensor) -> float:
        return float((((a - a.mean(0)) @ rotation) * (b - b.mean(0))).sum())

    best = gained(r)
    for other in range(20):
        assert gained(orthonormal(source, target, seed + other + 2)) <= best + 1e-9


@given(seed=seeds)
def test_residual_is_scipys_disparity_with_the_narrower_side_padded(seed: int) -> None:
    a = draw(8, 3, seed=seed)
    b = draw(8, 3, seed=seed + 1)
    assert fit_rotation(a, b).residual == pytest.approx(procrustes(a.numpy(), b.numpy())[2])
    padded = torch.nn.functional.pad(a, (0, 2))
    wider = draw(8, 5, seed=seed + 2)
    assert fit_rotation(a, wider).residual == pytest.approx(fit_rotation(padded, wider).residual)


def test_rotation_from_too_few_texts_is_repeatable_or_refused() -> None:
    a = draw(4, 6, seed=5)
    b = draw(4, 6, seed=6)
    found = fit_rotation(a, b)
    assert found.rank == 3
    assert torch.equal(found.rotation, fit_rotation(a, b).rotation)
    assert torch.allclose(found.rotation @ found.rotation.T, torch.eye(6).double(), atol=1e-9)
    with pytest.raises(ValueError, match="same features"):
        fit_rotation(draw(5, 3, seed=1), torch.ones(5, 3))
