"""CoPrompt: MaPLe, adapters behind both towers, consistency under other texts and views."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from formulas import cosine_logits, cross_entropy, mean_cosine
from image_reference import draw_images, draw_prompts, few_shots, run_image_tower, run_text_tower
from open_clip_reference import encode_texts
from test_ivlp import HIDDEN, WORDS
from test_maple import couple, draw_module
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module, NotTransferable
from compatbench.method.trained import Batch
from compatbench.methods.coprompt import CoPrompt
from compatbench.methods.maple import MaPLe


def draw_adapted(backbone: Backbone) -> dict[str, Tensor]:
    text, weight, bias = draw_module(backbone, 2)
    return {
        "text_prompts": text,
        "coupling_weight": weight,
        "coupling_bias": bias,
        "image_down": draw_prompts(4, 16, seed=4),
        "image_up": draw_prompts(16, 4, seed=5),
        "text_down": draw_prompts(4, 16, seed=6),
        "text_up": draw_prompts(16, 4, seed=7),
    }


def naive_features(
    backbone: Backbone, labels: Labels, parts: dict[str, Tensor], images: Tensor
) -> tuple[Tensor, Tensor]:
    """Adapted features of images and of classes."""
    text = parts["text_prompts"]
    image = couple(text, parts["coupling_weight"], parts["coupling_bias"])
    features = run_image_tower(backbone.model.visual, images, image)
    texts = run_text_tower(backbone, labels.names, WORDS, list(text))

    def adapt(rows: Tensor, tower: str, ratio: float) -> Tensor:
        down, up = parts[f"{tower}_down"], parts[f"{tower}_up"]
        adapted = [(up @ (down @ row).clamp(min=0)).clamp(min=0) for row in rows]
        return torch.stack(
            [ratio * a + (1 - ratio) * r for a, r in zip(adapted, rows, strict=True)]
        )

    return adapt(features, "image", 0.1), adapt(texts, "text", 0.2)


def naive_loss(
    backbone: Backbone,
    labels: Labels,
    parts: dict[str, Tensor],
    views: list[Tensor],
    targets: Tensor,
    template: str,
) -> Tensor:
    features, texts = naive_features(backbone, labels, parts, views[0])
    other = encode_texts(backbone, [template.format(name) for name in labels.names])
    frozen = backbone.model.visual(views[1])  # type: ignore[operator]
    entropy = cross_entropy(cosine_logits(backbone, texts, features), targets)
    return entropy + 1 - mean_cosine(texts, other) + 1 - mean_cosine(features, frozen)


def make_batch(backbone: Backbone, data: FewShotData, seed: int = 0) -> Batch:
    train = data.train
    rows = torch.arange(len(train))
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        train.views[0],
        train.targets,
        backbone,
        data.labels,
        train.inputs(rows, 0),
        train.views[1],
        generator,
    )


def test_the_logits_equal_the_formula(backbone64: Backbone, labels: Labels) -> None:
    parts = draw_adapted(backbone64)
    images = draw_images(backbone64, 4)
    classify = CoPrompt().attach(Module(parts), backbone64, labels)
    found = classify(backbone64.encode_images(images, HIDDEN))
    features, texts = naive_features(backbone64, labels, parts, images)
    expected = cosine_logits(backbone64, texts, features)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_loss_and_its_gradients_equal_the_formula(backbone64: Backbone, labels: Labels) -> None:
    data, views = few_shots(backbone64, labels)
    data = dataclasses.replace(data, labels=labels)
    parts = draw_adapted(backbone64)
    classifier = CoPrompt().attach(Module(parts), backbone64, labels)
    losses = [
        naive_loss(backbone64, labels, parts, views, data.train.targets, template)
        for template in labels.templates
    ]
    drawn = set()
    for seed in range(6):
        found = CoPrompt().loss(classifier, make_batch(backbone64, data, seed))
        distances = [abs(float((found - loss).detach())) for loss in losses]
        assert min(distances) < 1e-9
        drawn.add(distances.index(min(distances)))
    assert len(drawn) > 1

    expected = losses[distances.index(min(distances))]
    gradients = [torch.autograd.grad(loss, list(parts.values())) for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)
    assert all(gradient.abs().max() > 1e-6 for gradient in gradients[0])


def test_the_other_view_is_the_next_one(clip: Backbone, labels: Labels) -> None:
    data, _ = few_shots(clip, labels, views=3)
    seen: list[Batch] = []

    class Watched(CoPrompt):
        def loss(self, classifier: object, batch: Batch) -> Tensor:  # type: ignore[override]
            seen.append(batch)
            return super().loss(classifier, batch)  # type: ignore[arg-type]

    recipe = CoPrompt.Config().recipe.model_copy(update={"batch_size": 10, "epochs": 4})
    Watched(Watched.Config(recipe=recipe)).fit(clip, data, torch.Generator())
    for epoch, batch in enumerate(seen):
        own, other = data.train.views[epoch % 3], data.train.views[(epoch + 1) % 3]
        rows = [int((own == row).all(-1).nonzero()) for row in batch.features]
        assert batch.other_view is not None
        assert torch.equal(batch.other_view, other[rows])
        assert batch.tokens is not None
        assert torch.equal(batch.tokens, data.train.inputs(torch.tensor(rows), epoch % 3))


@pytest.mark.usefixtures("float64")
def test_without_adapters_and_consistency_it_is_maple(clip64: Backbone, labels: Labels) -> None:
    data, _ = few_shots(clip64, labels)
    off = {"image_ratio": 0, "text_ratio": 0, "weight": 0}
    method = CoPrompt(CoPrompt.Config.model_validate(off))
    module = method.init(clip64, data, torch.Generator().manual_seed(1))
    batch = make_batch(clip64, data)
    found = method.loss(method.attach(module, clip64, labels), batch)
    expected = MaPLe().loss(MaPLe().attach(module, clip64, labels), batch)
    torch.testing.assert_close(found, expected)


def test_another_embedding_size_is_refused(
    clip: Backbone, wider_joint: Backbone, labels: Labels
) -> None:
    module = CoPrompt().init(clip, few_shots(clip, labels)[0], torch.Generator())
    with pytest.raises(NotTransferable, match="image features of size 16, not 24"):
        CoPrompt().attach(module, wider_joint, labels)
