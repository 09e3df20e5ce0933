"""PromptSRC: IVLP, three consistency losses, and prompts averaged over the epochs."""

from __future__ import annotations

import math

import pytest
import torch
from formulas import check_first_step, cosine_logits, cross_entropy
from image_reference import draw_prompts, few_shots, run_image_tower, run_text_tower
from open_clip import OPENAI_IMAGENET_TEMPLATES
from open_clip_reference import encode_texts
from test_ivlp import WORDS, embed
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import Module
from compatbench.method.trained import Batch
from compatbench.methods.ivlp import IVLP
from compatbench.methods.promptsrc import PromptSRC


def naive_loss(
    backbone: Backbone,
    labels: Labels,
    text: list[Tensor],
    image: list[Tensor],
    images: Tensor,
    targets: Tensor,
    templates: list[str],
) -> Tensor:
    texts = run_text_tower(backbone, labels.names, WORDS, text)
    features = run_image_tower(backbone.model.visual, images, image)
    frozen = backbone.model.visual(images)  # type: ignore[operator]
    teachers = []
    for name in labels.names:
        each = encode_texts(backbone, [template.format(name) for template in templates])
        teachers.append(each.mean(0) / each.mean(0).norm())
    logits = cosine_logits(backbone, texts, features)
    frozen_logits = cosine_logits(backbone, torch.stack(teachers), frozen)

    text_loss = torch.stack(
        [(t / t.norm() - teacher).abs().mean() for t, teacher in zip(texts, teachers, strict=True)]
    ).mean()
    image_loss = torch.stack(
        [(f / f.norm() - g / g.norm()).abs().mean() for f, g in zip(features, frozen, strict=True)]
    ).mean()
    divergence = torch.zeros(())
    for row, frozen_row in zip(logits, frozen_logits, strict=True):
        p, q = frozen_row.softmax(0), row.softmax(0)
        divergence = divergence + (p * (p.log() - q.log())).sum()
    divergence = divergence / (len(images) * len(labels))
    return cross_entropy(logits, targets) + 25 * text_loss + 10 * image_loss + divergence


TEMPLATES = {
    "imagenet": [fill("{}") for fill in OPENAI_IMAGENET_TEMPLATES][:60],
    "task": ["a photo of a {}.", "a drawing of the {}.", "{} texture"],
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("templates", ["imagenet", "task"])
def test_the_loss_equals_the_formula(backbone64: Backbone, labels: Labels, templates: str) -> None:
    data, views = few_shots(backbone64, labels)
    text = draw_prompts(3, 4, 32, seed=1)
    image = draw_prompts(2, 4, backbone64.image.width, seed=2)
    method = PromptSRC(PromptSRC.Config.model_validate({"templates": templates}))
    module = Module({"text_prompts": text, "image_prompts": image})
    train = data.train
    assert train.view_inputs is not None
    batch = Batch(train.views[1], train.targets, backbone64, labels, train.view_inputs[1])  # type: ignore[arg-type]
    found = method.loss(method.attach(module, backbone64, labels), batch)
    expected = naive_loss(
        backbone64, labels, list(text), list(image), views[1], train.targets, TEMPLATES[templates]
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_the_first_step_follows_the_gradient_of_the_formula(
    clip64: Backbone, labels: Labels
) -> None:
    data, views = few_shots(clip64, labels)

    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        text, image = list(parameters["text_prompts"]), list(parameters["image_prompts"])
        return naive_loss(clip64, labels, text, image, images, targets, TEMPLATES["task"])

    generator = torch.Generator().manual_seed(3)
    deep, image = (torch.randn(2, 4, 32, generator=generator) * 0.02 for _ in range(2))
    start = {"text_prompts": torch.cat([embed(clip64, WORDS)[None], deep]), "image_prompts": image}
    recipe = {"warmup_epochs": 0, "lr": 0.1, "batch_size": 32}
    check_first_step(
        *(PromptSRC, clip64, data, loss),
        recipe=recipe,
        images=views[0],
        start=start,
        templates="task",
    )


def test_the_average_over_epochs_is_gaussian() -> None:
    weights = PromptSRC().epoch_weights(50)
    density = [math.exp(-((j - 30) ** 2) / (2 * 30**2)) for j in range(1, 51)]
    assert weights == pytest.approx([value / sum(density) for value in density])
    config = PromptSRC.Config(average_mean=0.9, average_std=0.1)
    weights = PromptSRC(config).epoch_weights(50)
    density = [math.exp(-((j - 45) ** 2) / (2 * 5**2)) for j in range(1, 51)]
    assert weights == pytest.approx([value / sum(density) for value in density])


@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_the_average_has_its_place_in_a_shorter_fit(epochs: int) -> None:
    config = PromptSRC.Config(average_mean=0.6, average_std=0.05)
    weights = PromptSRC(config).epoch_weights(epochs)
    assert sum(weights) == pytest.approx(1)
    assert weights.index(max(weights)) == max(0, round(0.6 * epochs) - 1)


def test_prompts_are_averaged_over_the_epochs(clip: Backbone, labels: Labels) -> None:
    """An average that weighs the last epoch alone is the last epoch's; the default is not."""
    data, _ = few_shots(clip, labels)

    def fit(mean: float, std: float) -> Module:
        settings = {"average_mean": mean, "average_std": std, "max_steps": 6}
        method = PromptSRC(PromptSRC.Config.model_validate(settings))
        return method.fit(clip, data, torch.Generator().manual_seed(1))

    class Unaveraged(PromptSRC):
        def epoch_weights(self, epochs: int) -> None:  # type: ignore[override]
            return None

    last = Unaveraged(Unaveraged.Config(max_steps=6)).fit(
        clip, data, torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(fit(1.0, 0.01)["image_prompts"], last["image_prompts"])
    difference = fit(0.6, 0.6)["image_prompts"] - last["image_prompts"]
    assert difference.abs().max() > 1e-6


def test_without_consistency_it_is_ivlp(clip64: Backbone, labels: Labels) -> None:
    data, _ = few_shots(clip64, labels)
    off = {"text_weight": 0, "image_weight": 0, "logit_weight": 0}
    method = PromptSRC(PromptSRC.Config.model_validate(off))
    module = method.init(clip64, data, torch.Generator().manual_seed(1))
    train = data.train
    assert train.view_inputs is not None
    batch = Batch(train.plain, train.targets, clip64, labels, train.view_inputs[0])  # type: ignore[arg-type]
    found = method.loss(method.attach(module, clip64, labels), batch)
    expected = IVLP().loss(IVLP().attach(module, clip64, labels), batch)
    torch.testing.assert_close(found, expected)
