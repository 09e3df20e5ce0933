"""IVLP: words and deep prompts in the text tower, deep prompts in the image tower."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from formulas import check_first_step, cosine_logits, cross_entropy
from image_reference import draw_images, draw_prompts, few_shots, run_image_tower, run_text_tower
from open_clip_reference import encode_texts
from torch import Tensor

from compatbench.backbone import Backbone, ImageInput, Labels
from compatbench.errors import CompatbenchError
from compatbench.method import Module, NotTransferable
from compatbench.methods.ivlp import IVLP

WORDS = "a photo of a"
HIDDEN = ImageInput("hidden", 0)
B16: Any = SimpleNamespace(
    image=SimpleNamespace(depth=12, width=768),
    text=SimpleNamespace(depth=12),
    token_width=512,
    embed_dim=512,
    device="cpu",
    embed_text=lambda words: torch.zeros(4, 512),
)


def embed(backbone: Backbone, words: str) -> Tensor:
    tower: Any = getattr(backbone.model, "text", backbone.model)
    return tower.token_embedding.weight[backbone.tokenizer.encode(words)]


def naive_logits(
    backbone: Backbone,
    labels: Labels,
    text: list[Tensor],
    image: list[Tensor],
    images: Tensor,
) -> Tensor:
    texts = run_text_tower(backbone, labels.names, WORDS, text)
    features = run_image_tower(backbone.model.visual, images, image)
    return cosine_logits(backbone, texts, features)


@pytest.mark.parametrize(("blocks", "length"), [(1, 4), (3, 2), (2, 1)])
def test_the_logits_equal_the_formula(
    backbone64: Backbone, labels: Labels, blocks: int, length: int
) -> None:
    text = draw_prompts(blocks, length, 32, seed=1)
    image = draw_prompts(2, 3, backbone64.image.width, seed=2)
    module = Module({"text_prompts": text, "image_prompts": image})
    images = draw_images(backbone64, 4)
    classify = IVLP().attach(module, backbone64, labels)
    found = classify(backbone64.encode_images(images, HIDDEN))
    expected = naive_logits(backbone64, labels, list(text), list(image), images)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_the_first_step_follows_the_gradient_of_the_formula(
    clip64: Backbone, labels: Labels
) -> None:
    data, views = few_shots(clip64, labels)

    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        text, image = list(parameters["text_prompts"]), list(parameters["image_prompts"])
        return cross_entropy(naive_logits(clip64, labels, text, image, images), targets)

    generator = torch.Generator().manual_seed(3)
    deep, image = (torch.randn(2, 2, 32, generator=generator) * 0.02 for _ in range(2))
    start = {"text_prompts": torch.cat([embed(clip64, WORDS)[None, :2], deep])}
    start["image_prompts"] = image
    check_first_step(IVLP, clip64, data, loss, images=views[0], start=start)


def test_without_prompts_it_is_zero_shot(backbone64: Backbone, labels: Labels) -> None:
    width = backbone64.image.width
    prompts = {"text_prompts": torch.zeros(3, 0, 32), "image_prompts": torch.zeros(2, 0, width)}
    module = Module({name: tensor.double() for name, tensor in prompts.items()})
    images = draw_images(backbone64, 4)
    classify = IVLP().attach(module, backbone64, labels)
    found = classify(backbone64.encode_images(images, HIDDEN))
    texts = encode_texts(backbone64, [f"{WORDS} {name}." for name in labels.names])
    expected = cosine_logits(backbone64, texts, backbone64.encode_images(images))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_towers_of_fewer_blocks_get_prompts_in_all_of_them(clip: Backbone, labels: Labels) -> None:
    module = IVLP().init(clip, few_shots(clip, labels)[0], torch.Generator())
    assert {name: tuple(tensor.shape) for name, tensor in module.tensors.items()} == {
        "text_prompts": (3, 2, 32),
        "image_prompts": (2, 2, 32),
    }
    assert torch.equal(module["text_prompts"][0], embed(clip, WORDS)[:2])


def test_too_few_words_are_refused(clip: Backbone) -> None:
    method = IVLP(IVLP.Config(text_length=5))
    with pytest.raises(CompatbenchError, match=r"'a photo of a' are 4 tokens, too few.* of 5"):
        method.init(clip, None, torch.Generator())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "image", "reason"),
    [
        ((3, 2, 48), (2, 2, 32), "text tokens of width 48, not 32"),
        ((4, 2, 32), (2, 2, 32), "text towers of 4 blocks or more, not 3"),
        ((3, 2, 32), (2, 2, 64), "image tokens of width 64, not 32"),
        ((3, 2, 32), (3, 2, 32), "image towers of 3 blocks or more, not 2"),
    ],
)
def test_another_width_and_fewer_blocks_are_refused(
    clip: Backbone,
    labels: Labels,
    text: tuple[int, ...],
    image: tuple[int, ...],
    reason: str,
) -> None:
    module = Module({"text_prompts": torch.zeros(text), "image_prompts": torch.zeros(image)})
    with pytest.raises(NotTransferable, match=reason):
        IVLP().attach(module, clip, labels)
