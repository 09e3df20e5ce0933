"""What a backbone derives from class names, and that it stays frozen."""

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


def test_zero_shot_weights_are_normalised_features_and_their_ensemble_normalised_again(
    backbone: Backbone, labels: Labels
) -> None:
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


def test_name_tokens_are_embeddings_of_the_names_alone(clip: Backbone, labels: Labels) -> None:
    rows, lengths = clip.name_tokens(labels)
    assert lengths == (1, 7, 2, 4, 1)
    table = clip.model.token_embedding.weight  # type: ignore[union-attr]
    for c, name in enumerate(labels.names):
        ids = clip.tokenizer.encode(name)
        assert torch.equal(rows[c, : len(ids)], table[ids])  # type: ignore[index]
        assert torch.equal(clip.embed_text(name), table[ids])  # type: ignore[index]
        clip.embed_text(name).zero_()  # it is remembered, and each caller has a copy
        assert torch.equal(clip.embed_text(name), table[ids])  # type: ignore[index]
    assert not rows.requires_grad


def test_a_wrong_number_of_contexts_and_an_unknown_precision_are_refused(
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


def test_what_leaves_the_towers_is_float32(pair: tuple[Backbone, Backbone]) -> None:
    full, low = pair
    labels = load_task("mini-weather").labels
    context = torch.zeros(4, low.token_width, requires_grad=True)
    weights = {n: w.float().requires_grad_() for n, w in low.text.weights.items() if "bias" in n}
    features = low.encode_prompts(low.prompts(labels, context), weights)
    features.square().sum().backward()
    assert bool(torch.isfinite(context.grad).all())
    for weight in weights.values():
        assert weight.grad.dtype == torch.float32
    black = torch.zeros(1, 3, 48, 48)
    images, hidden = low.encode_images(black), low.encode_images(black, ImageInput("hidden"))
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
def test_features_and_accuracy_hardly_move(pair: tuple[Backbone, Backbone], tmp_path: Path) -> None:
    task = load_task("mini-weather")
    samples = list(task.split("test"))
    targets = torch.tensor([sample.label for sample in samples])
    cache = FeatureCache(tmp_path)
    images = [cache.features(backbone, task, samples) for backbone in pair]
    texts = [backbone.zero_shot(task.labels) for backbone in pair]
    cosines = [F.cosine_similarity(*both).min().item() for both in (images, texts)]
    accuracies = [
        100 * (image @ text.T).argmax(-1).eq(targets).float().mean().item()
        for image, text in zip(images, texts, strict=True)
    ]
    assert min(cosines) > 0.99
    assert abs(accuracies[0] - accuracies[1]) < 2
