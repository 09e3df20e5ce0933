"""MaPLe: deep text prompts; those of the image are linear functions of them."""

from __future__ import annotations

import pytest
import torch
from formulas import check_first_step, cross_entropy
from image_reference import draw_images, draw_prompts, few_shots, run_image_tower
from test_ivlp import HIDDEN, WORDS, embed, naive_logits
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import Module, NotTransferable
from compatbench.methods.maple import MaPLe


def couple(text: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    """F_i(P_i) = W_i P_i + b_i, token by token."""
    return [
        torch.stack([w @ token + b for token in tokens])
        for tokens, w, b in zip(text, weight, bias, strict=True)
    ]


def draw_module(backbone: Backbone, blocks: int) -> tuple[Tensor, Tensor, Tensor]:
    width = backbone.image.width
    return (
        draw_prompts(blocks, 2, 32, seed=1),
        draw_prompts(blocks, width, 32, seed=2),
        draw_prompts(blocks, width, seed=3),
    )


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_logits_equal_the_formula(backbone64: Backbone, labels: Labels, blocks: int) -> None:
    text, weight, bias = draw_module(backbone64, blocks)
    module = Module({"text_prompts": text, "coupling_weight": weight, "coupling_bias": bias})
    images = draw_images(backbone64, 4)
    classify = MaPLe().attach(module, backbone64, labels)
    found = classify(backbone64.encode_images(images, HIDDEN))
    image = couple(text, weight, bias)
    expected = naive_logits(backbone64, labels, list(text), image, images)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_the_first_step_follows_the_gradient_of_the_formula(
    clip64: Backbone, labels: Labels
) -> None:
    data, views = few_shots(clip64, labels)

    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        text, weight, bias = parameters.values()
        image = couple(text, weight, bias)
        return cross_entropy(naive_logits(clip64, labels, list(text), image, images), targets)

    check_first_step(MaPLe, clip64, data, loss, images=views[0])


def test_prompts_start_at_words_and_layers_as_pytorch_s(backbone: Backbone, labels: Labels) -> None:
    depth = min(3, backbone.image.depth)
    module = MaPLe().init(backbone, few_shots(backbone, labels)[0], torch.Generator())
    width = backbone.image.width
    assert {name: tuple(tensor.shape) for name, tensor in module.tensors.items()} == {
        "text_prompts": (depth, 2, 32),
        "coupling_weight": (depth, width, 32),
        "coupling_bias": (depth, width),
    }
    assert torch.equal(module["text_prompts"][0], embed(backbone, WORDS)[:2])
    assert float(module["text_prompts"][1:].std()) == pytest.approx(0.02, rel=0.3)
    for name in ("coupling_weight", "coupling_bias"):
        assert 0.9 * 32**-0.5 < float(module[name].abs().max()) <= 32**-0.5
        assert abs(float(module[name].mean())) < 0.03


def test_deeper_image_prompts_come_from_the_same_text_prompts(
    clip64: Backbone, labels: Labels
) -> None:
    """Without weights, the image prompts are the biases, whatever the text prompts."""
    text, weight, bias = draw_module(clip64, 2)
    module = Module({"text_prompts": text, "coupling_weight": 0 * weight, "coupling_bias": bias})
    images = draw_images(clip64, 3)
    found = MaPLe().attach(module, clip64, labels).encode(clip64.encode_images(images, HIDDEN))
    repeated = [own.expand(2, -1) for own in bias]
    expected = run_image_tower(clip64.model.visual, images, repeated)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_first_image_prompts_can_be_carried_behind_the_source_s_norm(
    clip: Backbone, labels: Labels
) -> None:
    data, _ = few_shots(clip, labels)
    module = MaPLe(MaPLe.Config(entry="post-ln", max_steps=2)).fit(clip, data, torch.Generator())
    first = couple(*(module[n] for n in ("text_prompts", "coupling_weight", "coupling_bias")))[0]
    torch.testing.assert_close(module.stored["entered"], clip.model.visual.ln_pre(first))  # type: ignore[operator, union-attr]


def test_another_width_is_refused(clip: Backbone, eva: Backbone, labels: Labels) -> None:
    module = MaPLe().init(clip, few_shots(clip, labels)[0], torch.Generator())
    with pytest.raises(NotTransferable, match="image tokens of width 32, not 128"):
        MaPLe().attach(module, eva, labels)
