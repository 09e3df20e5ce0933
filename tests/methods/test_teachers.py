"""Methods that a larger model teaches: KDPL and PromptKD."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from formulas import (
    Case,
    Tensors,
    close,
    cosine_logits,
    descend,
    embed,
    make,
    prompted,
    scale_of,
    seeded,
    unit,
    unit_texts,
)
from image_reference import few_shots, run_image_tower
from open_clip_reference import encode_contexts
from tiny_models import tiny_clip, wrap
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FEATURES, FewShotData, ImageInput, Teacher

RECIPE = {"warmup_epochs": 0, "lr": 0.1, "batch_size": 32}


def add_teacher(
    backbone: Backbone, labels: Labels, wanted: ImageInput
) -> tuple[FewShotData, Backbone, Tensor]:
    """Few shots with a teacher of another joint space, and the images of the first view."""
    teacher = wrap(tiny_clip(seed=5, embed_dim=24).double(), "teacher")
    data, views = few_shots(backbone, labels, wanted)
    seen, _ = few_shots(teacher, labels, wanted)
    few, taught = (
        replace(each, unlabelled=replace(each.train, targets=-torch.ones_like(each.train.targets)))
        for each in (data, seen)
    )
    return replace(few, teacher=Teacher(teacher, taught)), teacher, views[0]


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Σ_i KL(p_i ‖ q_i) of rows of probabilities."""
    return (p * (p.log() - q.log())).sum()


def test_kdpl_s_step_follows_the_divergences_from_its_teacher(
    float64: None, clip64: Backbone, labels: Labels
) -> None:
    data, teacher, images = add_teacher(clip64, labels, FEATURES)
    method = make("kdpl", recipe=RECIPE, max_steps=1)
    context = embed(clip64, "a photo of a").clone().requires_grad_()
    texts = encode_contexts(clip64, labels.names, context)
    q = cosine_logits(clip64, texts, clip64.model.visual(images)).softmax(1)  # type: ignore[operator]
    cosines = unit(teacher.model.visual(images)) @ unit_texts(teacher, labels).T  # type: ignore[operator]
    p = (scale_of(clip64) * cosines).softmax(1)
    loss = (divergence(p, q) + divergence(q, p)) / 2 / len(images)
    [gradient] = torch.autograd.grad(loss, [context])
    unknown = replace(data, train=replace(data.train, targets=torch.zeros_like(data.train.targets)))
    for given in (data, unknown):
        found = method.fit(clip64, given, seeded(3))["context"]
        close(found, descend("context", context, gradient).detach())


def test_promptkd_s_step_follows_its_tuned_teacher(
    float64: None, clip64: Backbone, labels: Labels
) -> None:
    tuned = make("promptsrc", recipe=RECIPE, max_steps=1)
    recipe = tuned.config.recipe
    method = make("promptkd", recipe=RECIPE, teacher_recipe=recipe, weight=10, max_steps=2)
    data, teacher, images = add_teacher(clip64, labels, method.image_input(clip64))
    found = method.fit(clip64, data, seeded(3))

    rng = seeded(3)
    assert data.teacher is not None
    of_teacher = tuned.fit(teacher, data.teacher.data, rng).trained
    features, texts = prompted(Case(teacher, labels, of_teacher, images))
    p = cosine_logits(teacher, texts, features).softmax(1)
    own = {name: x.requires_grad_() for name, x in method.init(clip64, data, rng).trained.items()}

    def student(own: Tensors, mean: Tensor | None = None, variance: Tensor | None = None) -> Any:
        features = run_image_tower(clip64.model.visual, images, list(own["image_prompts"]))
        hidden = features @ own["down"].T + own["down_bias"]
        mean = hidden.mean(0) if mean is None else mean
        variance = hidden.var(0, correction=0) if variance is None else variance
        normed = (hidden - mean) / (variance + 1e-5).sqrt() * own["gain"] + own["shift"]
        projected = normed.clamp(min=0) @ own["up"].T + own["up_bias"]
        return hidden, cosine_logits(clip64, texts, projected)

    hidden, logits = student(own)
    loss = 10 * divergence(p, logits.softmax(1)) / logits.numel()
    gradients = torch.autograd.grad(loss, [*own.values()])
    for (name, x), gradient in zip(own.items(), gradients, strict=True):
        assert gradient.abs().max() > 1e-6 or name == "down_bias", name
        close(found.trained[name], descend(name, x, gradient).detach())
    close(found["texts"], unit(texts))
    close(found["mean"], 0.1 * hidden.mean(0))
    close(found["variance"], 0.9 + 0.1 * hidden.var(0))
    given = clip64.encode_images(images, method.image_input(clip64))
    answered = method.attach(found, clip64, labels)(given)
    _, expected = student(found.trained, found["mean"], found["variance"])
    close(answered, expected)
