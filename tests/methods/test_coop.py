"""CoOp: X_c = [SOS, v, E(name_c), E("."), EOT]; z = s · cos(f, Text(X_c))."""

from __future__ import annotations

import pytest
import torch
from formulas import check_first_step, cosine_logits, cross_entropy, photo_texts
from open_clip_reference import run_tower
from torch import Tensor, nn

from compatbench.backbone import Backbone, Labels
from compatbench.errors import CompatbenchError, NotTransferable
from compatbench.method import FewShotData, Module
from compatbench.methods._shared.prompts import Position
from compatbench.methods.coop import CoOp


def place_names(backbone: Backbone, labels: Labels, context: Tensor, position: Position) -> Tensor:
    """Features of [SOS, v₁..v_h, name, v_h+1..v_M, ".", EOT], h = M, M/2 or 0."""
    half = {"end": len(context), "middle": len(context) // 2, "front": 0}[position]
    tower: nn.Module = getattr(backbone.model, "text", backbone.model)  # type: ignore[assignment]
    table: Tensor = tower.token_embedding.weight  # type: ignore[assignment, union-attr]
    rows, last = [], []
    for name in labels.names:
        padded = backbone.tokenizer([f"{name}."])[0]
        words, dot = table[padded[1:]], len(backbone.tokenizer.encode(name))
        rest = words[dot : len(words) - len(context)]
        prompt = [table[padded[:1]], context[:half], words[:dot], context[half:], rest]
        rows.append(torch.cat(prompt))
        last.append(1 + len(context) + dot + 1)
    return run_tower(tower, torch.stack(rows), torch.tensor(last))


def test_the_first_step_in_single_precision(clip: Backbone, data: FewShotData) -> None:
    recipe = CoOp.Config().recipe.model_copy(update={"warmup_epochs": 0, "lr": 0.1})
    method = CoOp(CoOp.Config(recipe=recipe, max_steps=1))
    found = method.fit(clip, data, torch.Generator().manual_seed(3))["context"]

    start = 0.02 * torch.randn(16, 32, generator=torch.Generator().manual_seed(3))
    start.requires_grad_()
    logits = cosine_logits(clip, place_names(clip, data.labels, start, "end"), data.train.views[0])
    losses = [-row.log_softmax(0)[y] for row, y in zip(logits, data.train.targets, strict=True)]
    (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), start)
    expected = (start - 0.1 * (gradient + 5e-4 * start)).detach()
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_context_is_drawn_from_a_narrow_normal(b16_sized: Backbone, data: FewShotData) -> None:
    context = CoOp().init(b16_sized, data, torch.Generator().manual_seed(0))["context"]
    assert context.shape == (16, 512)
    assert context.std() == pytest.approx(0.02, rel=0.03)
    assert abs(context.mean()) < 0.001


def test_the_words_of_a_template_as_context_are_that_template(
    backbone64: Backbone, labels: Labels, images64: Tensor
) -> None:
    words = backbone64.embed_text("a photo of a")
    logits = CoOp().attach(Module({"context": words}), backbone64, labels)(images64)
    texts = photo_texts(backbone64, labels)
    texts = texts / texts.norm(dim=-1, keepdim=True)
    expected = images64 / images64.norm(dim=-1, keepdim=True) @ texts.T * backbone64.logit_scale
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)


def test_other_classes_can_be_named_when_a_module_is_attached(
    clip64: Backbone, images64: Tensor
) -> None:
    context = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)).double()
    labels = Labels(("boat", "fire engine", "cat"), ("{}",), "{}")
    logits = CoOp().attach(Module({"context": context}), clip64, labels)(images64)
    expected = cosine_logits(clip64, place_names(clip64, labels, context, "end"), images64)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("length", [1, 4, 5])
def test_logits_equal_the_formula_wherever_the_name_stands(
    backbone64: Backbone, labels: Labels, images64: Tensor, position: Position, length: int
) -> None:
    context = 0.3 * torch.randn(length, 32, generator=torch.Generator().manual_seed(1)).double()
    method = CoOp(CoOp.Config(context_length=length, position=position))
    logits = method.attach(Module({"context": context}), backbone64, labels)(images64)
    texts = place_names(backbone64, labels, context, position)
    expected = cosine_logits(backbone64, texts, images64)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_the_first_step_follows_the_gradient_of_the_formula(
    float64: None, clip64: Backbone, data64: FewShotData, position: Position
) -> None:
    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        texts = place_names(clip64, data64.labels, parameters["context"], position)
        return cross_entropy(cosine_logits(clip64, texts, images), targets)

    start = 0.02 * torch.randn(16, 32, generator=torch.Generator().manual_seed(3))
    check_first_step(CoOp, clip64, data64, loss, start={"context": start}, position=position)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_class_specific_contexts_are_each_class_s_own(
    backbone64: Backbone, labels: Labels, images64: Tensor, position: Position
) -> None:
    own = 0.3 * torch.randn(5, 4, 32, generator=torch.Generator().manual_seed(1)).double()
    method = CoOp(CoOp.Config(context_length=4, class_specific=True, position=position))
    logits = method.attach(Module({"context": own}), backbone64, labels)(images64)
    for c, name in enumerate(labels.names):
        alone = Labels((name,), labels.templates, labels.teacher_template)
        texts = place_names(backbone64, alone, own[c], position)
        expected = cosine_logits(backbone64, texts, images64)
        torch.testing.assert_close(logits[:, c : c + 1], expected, rtol=1e-10, atol=1e-10)


def test_class_specific_contexts_are_drawn_apart_and_serve_their_classes_only(
    clip: Backbone, data: FewShotData
) -> None:
    method = CoOp(CoOp.Config(context_length=4, class_specific=True, max_steps=2))
    start = method.init(clip, data, torch.Generator().manual_seed(0))["context"]
    assert start.shape == (5, 4, 32)
    assert not torch.equal(start[0], start[1])
    module = method.fit(clip, data, torch.Generator().manual_seed(0))
    other = Labels(("boat", "cat"), ("{}",), "{}")
    with pytest.raises(NotTransferable, match="number of classes of 5, not 2"):
        method.attach(module, clip, other)


def test_class_specific_contexts_of_words_train_apart(clip: Backbone, data: FewShotData) -> None:
    config = CoOp.Config(
        context_length=4, context_words="a photo of a", class_specific=True, max_steps=3
    )
    start = CoOp(config).init(clip, data, torch.Generator())["context"]
    words = clip.embed_text("a photo of a")
    assert all(torch.equal(own, words) for own in start)
    context = CoOp(config).fit(clip, data, torch.Generator())["context"]
    assert not torch.equal(context[0], context[1])


def test_context_words_of_another_length_are_refused(clip: Backbone, data: FewShotData) -> None:
    method = CoOp(CoOp.Config(context_length=4, context_words="a photo"))
    with pytest.raises(CompatbenchError, match=r"'a photo' are 2 tokens, but .* is 4"):
        method.init(clip, data, torch.Generator())
