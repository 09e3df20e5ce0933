"""A turned backbone: other coordinates, the same model."""

from __future__ import annotations

import pytest
import torch
from random_matrices import orthonormal

from compatbench.backbone import DENSE, FEATURES, POOLED, Backbone, ImageInput
from compatbench.backbone.rotated import RotatedBackbone
from compatbench.extras.check.method_under_test import LABELS, unseen_images
from compatbench.extras.check.models import (
    EMBED_DIM,
    random_rotation,
    rotate_clip,
    synthetic_models,
)

SIZES = [EMBED_DIM - 6, EMBED_DIM, EMBED_DIM + 5]


@pytest.fixture(params=["source", "target"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return getattr(synthetic_models(), request.param)


@pytest.mark.parametrize("size", SIZES)
def test_all_features_are_turned_but_not_hidden_tokens_nor_the_backbone_itself(
    backbone: Backbone, size: int
) -> None:
    rotation = orthonormal(size, EMBED_DIM, seed=1).float()
    texts, images = LABELS.fill(), unseen_images()
    before = backbone.text_features(texts), backbone.encode_images(images)
    turned = RotatedBackbone(backbone, rotation)
    assert turned.embed_dim == size
    for wanted in (FEATURES, DENSE):
        expected = backbone.encode_images(images, wanted) @ rotation.T
        assert torch.allclose(turned.encode_images(images, wanted), expected, atol=1e-5)
    assert torch.allclose(
        turned.text_features(texts), backbone.text_features(texts) @ rotation.T, atol=1e-5
    )
    hidden = turned.encode_images(images, ImageInput("hidden", 3))
    assert torch.equal(hidden, backbone.encode_images(images, ImageInput("hidden", 3)))
    expected = backbone.image.encode(hidden, block=3) @ rotation.T
    assert torch.allclose(turned.image.encode(hidden, block=3), expected, atol=1e-5)
    assert torch.equal(backbone.text_features(texts), before[0])
    assert torch.equal(backbone.encode_images(images), before[1])
    assert backbone.embed_dim == EMBED_DIM
    assert turned.weights_key != backbone.weights_key


def test_it_is_the_model_whose_projections_are_turned() -> None:
    backbone, rotation = synthetic_models().source, random_rotation(EMBED_DIM, seed=6)
    turned, real = RotatedBackbone(backbone, rotation), rotate_clip(backbone, rotation)
    images = unseen_images()
    assert torch.allclose(turned.encode_images(images), real.encode_images(images), atol=1e-5)
    assert torch.allclose(turned.zero_shot(LABELS), real.zero_shot(LABELS), atol=1e-5)
    for block in (0, 5):
        hidden = real.encode_images(images, ImageInput("hidden", block))
        expected = real.image.encode(hidden, block=block, dense=True)
        found = turned.image.encode(hidden, block=block, dense=True)
        assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_a_projection_leads_to_the_turned_space(backbone: Backbone, size: int) -> None:
    rotation = orthonormal(size, EMBED_DIM, seed=1).float()
    turned, images = RotatedBackbone(backbone, rotation), unseen_images()
    pooled = turned.encode_images(images, POOLED)
    assert torch.equal(pooled, backbone.encode_images(images, POOLED))
    expected = backbone.encode_images(images) @ rotation.T
    assert torch.allclose(turned.image.project(pooled), expected, atol=1e-5)
    projection = turned.image.weights["proj"]
    assert torch.allclose(pooled @ projection, expected, atol=1e-5)

    delta = 0.1 * torch.randn(projection.shape, generator=torch.Generator().manual_seed(2))
    expected = expected + pooled @ delta
    norm = {"ln_post.bias": backbone.image.weights["ln_post.bias"]}
    for more in ({}, norm):
        found = turned.image.encode(images, weights={"proj": projection + delta, **more})
        assert torch.allclose(found, expected, atol=1e-4)
    assert "proj" in backbone.image.weights
    assert backbone.image.weights["proj"].shape[1] == EMBED_DIM


@pytest.mark.parametrize("size", SIZES)
def test_a_text_projection_leads_to_the_turned_space(backbone: Backbone, size: int) -> None:
    rotation = orthonormal(size, EMBED_DIM, seed=1).float()
    turned, prompts = RotatedBackbone(backbone, rotation), backbone.text_prompts(LABELS.fill())
    rows = backbone.text.project_by(torch.eye(backbone.token_width)).encode(prompts)
    projection = turned.text.weights["text_projection"]
    delta = 0.1 * torch.randn(projection.shape, generator=torch.Generator().manual_seed(2))
    expected = backbone.encode_prompts(prompts) @ rotation.T + rows @ delta
    norm = {"ln_final.bias": backbone.text.weights["ln_final.bias"]}
    for more in ({}, norm):
        weights = {"text_projection": projection + delta, **more}
        assert torch.allclose(turned.encode_prompts(prompts, weights), expected, atol=1e-4)
    assert torch.allclose(
        turned.encode_prompts(prompts, norm),
        backbone.encode_prompts(prompts) @ rotation.T,
        atol=1e-4,
    )
    assert backbone.text.weights["text_projection"].shape[1] == EMBED_DIM
