"""Backbones turn class names into features, stay frozen, and compute in low precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from open_clip_reference import encode_texts

from compatbench.backbone import Backbone, ImageInput, Labels, load_backbone
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import load_task
from compatbench.errors import CompatbenchError


def test_zero_shot_weights_and_ensembles_are_normalised(backbone: Backbone, labels: Labels) -> None:
    of_templates = []
    for template in labels.templates:
        texts = [template.format(name) for name in labels.names]
        of_templates.append(F.normalize(encode_texts(backbone, texts), dim=-1))
        found = backbone.zero_shot(labels, template)
        torch.testing.assert_close(found, of_templates[-1], rtol=1e-4, atol=1e-5)
    assert torch.equal(backbone.zero_shot(labels), backbone.zero_shot(labels, labels.templates[0]))
    total = torch.stack(of_templates).sum(0)
    ensemble = backbone.zero_shot_ensemble(labels)
    expected = total / total.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(ensemble, expected, rtol=1e-4, atol=1e-5)
    assert not ensemble.requires_grad


def test_name_tokens_are_the_embeddings_of_the_names(clip: Backbone, labels: Labels) -> None:
    rows, lengths = clip.name_tokens(labels)
    assert lengths == (1, 7, 2, 4, 1)
    table = clip.model.token_embedding.weight  # type: ignore[union-attr]
    for c, name in enumerate(labels.names):
        ids = clip.tokenizer.encode(name)
        assert torch.equal(rows[c, : len(ids)], table[ids])  # type: ignore[index]
        assert torch.equal(clip.embed_text(name), table[ids])  # type: ignore[index]
        clip.embed_text(name).zero_()  # the result is cached, and each caller gets a copy
        assert torch.equal(clip.embed_text(name), table[ids])  # type: ignore[index]
    assert not rows.requires_grad


def test_wrong_number_of_contexts_and_unknown_precision_are_refused(
    clip: Backbone, labels: Labels
) -> None:
    with pytest.raises(CompatbenchError, match="3 contexts were given for 5 classes"):
        clip.prompts(labels, torch.zeros(3, 4, 32))
    with pytest.raises(CompatbenchError, match="'fp8'; give one of fp32, tf32, bf16, fp16"):
        load_backbone("mini-clip", precision="fp8")


@pytest.fixture(scope="module", params=[("mini-clip", "bf16"), ("mini-eva-clip", "fp16")])
def pair(request: pytest.FixtureRequest) -> tuple[Backbone, Backbone]:
    name, precision = request.param
    return load_backbone(name), load_backbone(name, precision=precision)


def test_outputs_of_low_precision_towers_are_float32(pair: tuple[Backbone, Backbone]) -> None:
    full, low = pair
    labels = load_task("mini-weather").labels
    context = torch.zeros(4, low.token_width, requires_grad=True)
    weights = {}
    for name, weight in low.text.weights.items():
        if "bias" in name:
            weights[name] = weight.float().requires_grad_()
    features = low.encode_prompts(low.prompts(labels, context), weights)
    features.square().sum().backward()
    assert torch.isfinite(context.grad).all()
    for weight in weights.values():
        assert weight.grad.dtype == torch.float32
    black = torch.zeros(1, 3, 48, 48)
    images = low.encode_images(black)
    hidden = low.encode_images(black, ImageInput("hidden"))
    assert hidden.dtype == low.dtype
    prompt = torch.full((2, low.image.width), 0.1, requires_grad=True)
    prompted = low.image.encode(hidden, prompts=[low.image.enter(prompt)])
    prompted.sum().backward()
    learned = [features, context.grad, prompted, prompt.grad]
    for tensor in (*learned, images, low.embed_text("rain"), low.zero_shot(labels)):
        assert tensor.dtype == torch.float32
    assert low.dtype in (torch.bfloat16, torch.float16)
    assert low.logit_scale == full.logit_scale


@pytest.mark.slow
def test_low_precision_hardly_changes_features_and_accuracy(
    pair: tuple[Backbone, Backbone], tmp_path: Path
) -> None:
    task = load_task("mini-weather")
    samples = list(task.split("test"))
    targets = torch.tensor([sample.label for sample in samples])
    cache = FeatureCache(tmp_path)
    images = []
    texts = []
    accuracies = []
    for backbone in pair:
        images.append(cache.features(backbone, task, samples))
        texts.append(backbone.zero_shot(task.labels))
        guesses = (images[-1] @ texts[-1].T).argmax(-1)
        accuracies.append(100 * guesses.eq(targets).float().mean().item())
    assert F.cosine_similarity(*images).min() > 0.99
    assert F.cosine_similarity(*texts).min() > 0.99
    assert abs(accuracies[0] - accuracies[1]) < 2
