"""ProGrad: G = G_d − λ ⟨G_d, Ĝ_g⟩ Ĝ_g where the two gradients are in conflict, else G_d."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from formulas import cosine_logits, cross_entropy, photo_texts
from open_clip_reference import encode_contexts
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module
from compatbench.method.trained import Batch
from compatbench.methods.prograd import ProGrad, distillation, project


def naive_gradient(
    backbone: Backbone,
    labels: Labels,
    context: Tensor,
    images: Tensor,
    targets: Tensor,
    strength: float = 1.0,
    temperature: float = 1.0,
) -> tuple[Tensor, bool]:
    """The projected gradient, and whether anything was taken out."""
    logits = cosine_logits(backbone, encode_contexts(backbone, labels.names, context), images)
    texts = photo_texts(backbone, labels)
    teacher = cosine_logits(backbone, texts, images)
    distilled = []
    for z, z0 in zip(logits, teacher, strict=True):
        p0 = torch.softmax(z0 / temperature, dim=0)
        distilled.append(-(p0 * torch.log_softmax(z / temperature, dim=0)).sum())
    general_loss = torch.stack(distilled).mean() * temperature**2
    (domain,) = torch.autograd.grad(cross_entropy(logits, targets), context, retain_graph=True)
    (general,) = torch.autograd.grad(general_loss, context)
    unit = general / general.norm()
    product = (domain * unit).sum()
    if product < 0:
        return domain - strength * product * unit, True
    return domain, False


def start_context(backbone: Backbone) -> Tensor:
    ids = backbone.tokenizer.encode("a photo of a")
    words: Tensor = backbone.model.token_embedding.weight[ids]  # type: ignore[index, union-attr, assignment]
    return torch.cat([torch.zeros(12, 32, dtype=words.dtype), words])


@pytest.mark.parametrize("strength", [1.0, 0.3])
@pytest.mark.parametrize("wrong", [False, True], ids=["in accord", "in conflict"])
def test_the_first_step_follows_the_projected_gradient(
    float64: None, clip64: Backbone, data64: FewShotData, wrong: bool, strength: float
) -> None:
    """With the teacher's least likely class for a label, the gradients are in conflict."""
    train = data64.train
    texts = photo_texts(clip64, data64.labels)
    teacher = cosine_logits(clip64, texts, train.views[0])
    targets = teacher.argmin(1) if wrong else teacher.argmax(1)
    data = dataclasses.replace(data64, train=dataclasses.replace(train, targets=targets))
    recipe = ProGrad.Config().recipe.model_copy(update={"warmup_epochs": 0, "lr": 0.1})
    method = ProGrad(ProGrad.Config(recipe=recipe, max_steps=1, strength=strength))
    # From elsewhere than the words, where the student would be the teacher.
    start = 0.3 * torch.randn(16, 32, generator=torch.Generator().manual_seed(3))
    method.init = lambda *arguments: Module({"context": start.clone()})  # type: ignore[method-assign]
    found = method.fit(clip64, data, torch.Generator())["context"]

    context = start.clone().requires_grad_()
    gradient, taken = naive_gradient(
        clip64, data.labels, context, train.views[0], targets, strength
    )
    assert taken == wrong
    expected = (context - 0.1 * (gradient + 5e-4 * context)).detach()
    assert (found - start).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_the_gradient_of_the_loss_at_another_temperature(
    float64: None, backbone64: Backbone, data64: FewShotData
) -> None:
    targets = data64.train.targets.flip(0)
    start = 0.3 * torch.randn(16, 32, generator=torch.Generator().manual_seed(3))
    method = ProGrad(ProGrad.Config(temperature=2.5))
    context = start.clone().requires_grad_()
    classifier = method.attach(Module({"context": context}), backbone64, data64.labels)
    batch = Batch(data64.train.plain, targets, backbone64, data64.labels)
    loss = method.loss(classifier, batch)
    (found,) = torch.autograd.grad(loss, context)
    again = start.clone().requires_grad_()
    expected, _ = naive_gradient(
        backbone64, data64.labels, again, batch.features, targets, temperature=2.5
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    texts = encode_contexts(backbone64, data64.labels.names, start)
    entropy = cross_entropy(cosine_logits(backbone64, texts, batch.features), targets)
    torch.testing.assert_close(loss, entropy, rtol=1e-10, atol=1e-10)


def test_a_student_that_is_its_teacher_has_nothing_to_be_taught() -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).double()
    logits.requires_grad_()
    divergence = distillation(logits, logits.detach(), 1.0)
    (gradient,) = torch.autograd.grad(divergence, logits)
    assert abs(divergence.item()) < 1e-12
    assert gradient.abs().max() < 1e-12
    domain = torch.randn(3, 4)
    assert torch.equal(project(domain, torch.zeros(3, 4), 1.0), domain)


def test_a_projected_gradient_is_orthogonal_to_what_it_was_in_conflict_with() -> None:
    domain, general = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 3.0]])
    assert torch.equal(project(domain, general, 1.0), torch.tensor([[1.0, 0.0]]))
    assert torch.equal(project(domain, general, 0.5), torch.tensor([[1.0, -1.0]]))
    assert torch.equal(project(domain, -general, 1.0), domain)


def test_the_context_ends_with_the_words_of_the_template(clip: Backbone, data: FewShotData) -> None:
    for seed in (1, 2):
        context = ProGrad().init(clip, data, torch.Generator().manual_seed(seed))["context"]
        assert torch.equal(context, start_context(clip))


@pytest.mark.parametrize(
    ("template", "zeros"), [("{} texture.", 16), ("a {}.", 15), ("dog " * 18 + "{}.", 0)]
)
def test_templates_with_fewer_or_more_words_than_the_context(
    clip: Backbone, data: FewShotData, template: str, zeros: int
) -> None:
    labels = dataclasses.replace(data.labels, templates=(template,))
    other = dataclasses.replace(data, labels=labels)
    context = ProGrad().init(clip, other, torch.Generator())["context"]
    assert context.shape == (16, 32)
    blank = (context == 0).all(-1).tolist()
    assert blank == [True] * zeros + [False] * (16 - zeros)
