"""What a backbone derives from class names, and that it stays frozen."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from open_clip_reference import encode_texts

from compatbench.backbone import Backbone, Labels, load_backbone
from compatbench.errors import CompatbenchError


def test_sizes_are_those_of_the_model(clip: Backbone, stranger: Backbone) -> None:
    assert (clip.token_width, clip.embed_dim) == (32, 16)
    assert (stranger.token_width, stranger.embed_dim) == (48, 24)


def test_the_logit_scale_is_the_checkpoints_own(backbone: Backbone) -> None:
    expected = float(torch.exp(backbone.model.logit_scale))  # type: ignore[arg-type]
    assert backbone.logit_scale == pytest.approx(expected)
    assert backbone.logit_scale != pytest.approx(100)


def test_image_features_are_the_models_own(backbone: Backbone) -> None:
    size = backbone.preprocess_settings["size"]
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = backbone.model.encode_image(pixels)  # type: ignore[operator]
    assert expected.shape == (2, 16)
    torch.testing.assert_close(backbone.encode_images(pixels), expected)


@pytest.mark.parametrize("template", [None, "a photo of a {}, a type of thing."])
def test_zero_shot_weights_are_normalised_features_of_a_template(
    backbone: Backbone, labels: Labels, template: str | None
) -> None:
    texts = [(template or "a photo of a {}.").format(name) for name in labels.names]
    expected = F.normalize(encode_texts(backbone, texts), dim=-1)
    weights = backbone.zero_shot(labels, template)
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)
    assert not weights.requires_grad


def test_the_ensemble_averages_normalised_features_and_normalises_again(
    backbone: Backbone, labels: Labels
) -> None:
    weights = backbone.zero_shot_ensemble(labels)
    for c, name in enumerate(labels.names):
        texts = [f"a photo of a {name}.", f"a drawing of the {name}.", f"{name} texture"]
        features = encode_texts(backbone, texts)
        total = sum(feature / feature.norm() for feature in features)
        torch.testing.assert_close(weights[c], total / total.norm(), rtol=1e-4, atol=1e-5)


def test_name_tokens_are_embeddings_of_the_names_alone(clip: Backbone, labels: Labels) -> None:
    rows, lengths = clip.name_tokens(labels)
    assert lengths == (1, 7, 2, 4, 1)
    table = clip.model.token_embedding.weight  # type: ignore[union-attr]
    for c, name in enumerate(labels.names):
        ids = clip.tokenizer.encode(name)
        assert torch.equal(rows[c, : len(ids)], table[ids])  # type: ignore[index]
        assert torch.equal(clip.embed_text(name), table[ids])  # type: ignore[index]
    assert not rows.requires_grad


def test_a_wrong_number_of_contexts_is_refused(clip: Backbone, labels: Labels) -> None:
    with pytest.raises(CompatbenchError, match="3 contexts were given for 5 classes"):
        clip.prompts(labels, torch.zeros(3, 4, 32))


def test_asking_twice_gives_the_same_features(clip: Backbone, labels: Labels) -> None:
    first = clip.zero_shot(labels).clone()
    assert torch.equal(clip.zero_shot(labels), first)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(CompatbenchError, match="no precision 'fp8'; give one of fp32, bf16"):
        load_backbone("mini-clip", precision="fp8")
