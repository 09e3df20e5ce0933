"""VPT-deep: tokens of each block among the image's own, before the zero-shot classifier."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from formulas import check_first_step, cosine_logits, cross_entropy, photo_texts
from image_reference import draw_images, draw_prompts, few_shots, run_image_tower
from tiny_models import wrap
from torch import Tensor

from compatbench.backbone import Backbone, ImageInput, Labels
from compatbench.method import Module, NotTransferable
from compatbench.methods.vpt_deep import VPTDeep

HIDDEN = ImageInput("hidden", 0)
B16: Any = SimpleNamespace(image=SimpleNamespace(depth=12, width=768), device="cpu")


@pytest.mark.parametrize("depth", [1, 2])
def test_the_logits_equal_the_formula(backbone64: Backbone, labels: Labels, depth: int) -> None:
    prompts = draw_prompts(depth, 3, backbone64.image.width)
    images = draw_images(backbone64, 4)
    classify = VPTDeep().attach(Module({"image_prompts": prompts}), backbone64, labels)
    found = classify(backbone64.encode_images(images, HIDDEN))
    features = run_image_tower(backbone64.model.visual, images, list(prompts))
    expected = cosine_logits(backbone64, photo_texts(backbone64, labels), features)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_the_first_step_follows_the_gradient_of_the_formula(
    backbone64: Backbone, labels: Labels
) -> None:
    data, views = few_shots(backbone64, labels)

    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        prompts = list(parameters["image_prompts"])
        features = run_image_tower(backbone64.model.visual, images, prompts)
        texts = photo_texts(backbone64, labels)
        return cross_entropy(cosine_logits(backbone64, texts, features), targets)

    shape = backbone64.image.depth, 8, backbone64.image.width
    start = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 0.02
    check_first_step(
        *(VPTDeep, backbone64, data, loss), images=views[0], start={"image_prompts": start}
    )


@pytest.mark.parametrize("template", ["a photo of a {}.", None])
def test_without_tokens_it_is_zero_shot(
    backbone64: Backbone, labels: Labels, template: str | None
) -> None:
    method = VPTDeep(VPTDeep.Config(length=0, template=template))
    module = Module({"image_prompts": torch.zeros(2, 0, backbone64.image.width).double()})
    images = draw_images(backbone64, 4)
    found = method.attach(module, backbone64, labels)(backbone64.encode_images(images, HIDDEN))
    texts = photo_texts(backbone64, labels)
    expected = cosine_logits(backbone64, texts, backbone64.encode_images(images))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_text_is_the_same_for_every_task_or_the_task_s(clip: Backbone) -> None:
    labels = Labels(("dog", "tree"), ("{} texture.",), "{} texture.")
    module = VPTDeep().init(clip, few_shots(clip, labels)[0], torch.Generator())
    for template in ("a photo of a {}.", None):
        method = VPTDeep(VPTDeep.Config(template=template))
        expected = clip.zero_shot(labels, template or "{} texture.")
        torch.testing.assert_close(method.attach(module, clip, labels).weights, expected)


def test_a_tower_of_fewer_blocks_gets_tokens_in_all_of_them(
    backbone: Backbone, labels: Labels
) -> None:
    data, _ = few_shots(backbone, labels)
    module = VPTDeep(VPTDeep.Config(max_steps=2)).fit(backbone, data, torch.Generator())
    assert module["image_prompts"].shape == (backbone.image.depth, 8, backbone.image.width)
    assert set(module.tensors) == {"image_prompts"}
    half = VPTDeep(VPTDeep.Config(depth=1)).init(backbone, data, torch.Generator())
    assert half["image_prompts"].shape == (1, 8, backbone.image.width)


@pytest.mark.parametrize("entry", ["raw", "post-ln"])
def test_the_first_tokens_enter_another_tower_as_declared(
    clip64: Backbone, labels: Labels, entry: Any
) -> None:
    """After a norm of another tower's, they are other tokens if they are carried raw."""
    data, _ = few_shots(clip64, labels)
    method = VPTDeep(VPTDeep.Config(entry=entry, max_steps=1))
    module = method.fit(clip64, data, torch.Generator().manual_seed(1))
    source: Any = clip64.model.visual
    entered = source.ln_pre(module["image_prompts"][0].double())
    for tensor in method.insert(module, clip64)[:1]:
        torch.testing.assert_close(tensor.double(), entered, rtol=1e-5, atol=1e-5)

    model: Any = copy.deepcopy(clip64.model)
    model.visual.ln_pre.bias.data += 1.0
    [first, *_] = method.insert(module, wrap(model, "other"))
    expected = entered + 1 if entry == "raw" else entered
    torch.testing.assert_close(first.double(), expected, rtol=1e-5, atol=1e-5)
    model.visual.ln_pre = torch.nn.Identity()
    [first, *_] = method.insert(module, wrap(model, "without"))
    expected = module["image_prompts"][0].double() if entry == "raw" else entered
    torch.testing.assert_close(first.double(), expected, rtol=1e-5, atol=1e-5)


def test_post_ln_tokens_are_stored_beside_what_was_learned(clip: Backbone, labels: Labels) -> None:
    data, _ = few_shots(clip, labels)
    method = VPTDeep(VPTDeep.Config(entry="post-ln", max_steps=1))
    module = method.fit(clip, data, torch.Generator())
    assert set(module.stored) == {"entered"}
    assert module.parameters == 2 * 8 * 32
    assert not any(tensor.requires_grad for tensor in module.tensors.values())


def test_another_width_and_fewer_blocks_are_refused(
    clip: Backbone, eva: Backbone, labels: Labels
) -> None:
    module = Module({"image_prompts": torch.zeros(2, 8, 32)})
    with pytest.raises(NotTransferable, match="image tokens of width 32, not 128"):
        VPTDeep().attach(module, eva, labels)
    module = Module({"image_prompts": torch.zeros(3, 8, 32)})
    with pytest.raises(NotTransferable, match="3 blocks or more, not 2"):
        VPTDeep().attach(module, clip, labels)
