"""LDC: its logits, its first step and its choices, written out from the paper."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from image_reference import draw_images, few_shots
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FeatureSet
from formulas import Case, Formula, Tensors, adam, close, logits_test, make, seeded, step_test


def levels_of(backbone: Backbone, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the model's features, and the tokens behind four of its blocks, by hooks."""
    visual: Any = backbone.model.visual
    clip = hasattr(visual, "transformer")
    blocks = visual.transformer.resblocks if clip else visual.trunk.blocks
    outputs: list[Tensor] = []
    hooks = []
    for block in blocks:
        hooks.append(block.register_forward_hook(lambda *given: outputs.append(given[-1])))
    features = visual(images)
    for hook in hooks:
        hook.remove()
    return features, [outputs[math.ceil(n * len(blocks) / 12) - 1] for n in (6, 8, 10, 12)]


def fused(backbone: Backbone, levels: list[Tensor], own: Tensors) -> Tensor:
    """Return the projected sum of the adapted tokens, ``[images, e]``."""
    visual: Any = backbone.model.visual
    total = torch.zeros(())
    for i, tokens in enumerate(levels):
        x = tokens @ own["adapters"][i].T
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        x = (own["gains"][i] * x + own["shifts"][i]).clamp(min=0)
        total = total + (i + 1) / 10 * x.mean(1)
    return total @ visual.proj if hasattr(visual, "proj") else visual.head(total)


def network(name: str, x: Tensor, own: Tensors, learning: bool) -> Tensor:
    """Return V ReLU(BN(U x)), with the statistics of the rows or those of the module."""
    hidden = x @ own[f"{name}_in"].T
    mean = hidden.mean(0) if learning else own[f"{name}_mean"]
    variance = hidden.var(0, correction=0) if learning else own[f"{name}_variance"].double()
    hidden = own[f"{name}_gain"] * (hidden - mean) / (variance + 1e-5).sqrt()
    return (hidden + own[f"{name}_shift"]).clamp(min=0) @ own[f"{name}_out"].T


def parts(at: Case, learning: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return z_0, z_M, z_D and g."""
    features, levels = levels_of(at.backbone, at.images)
    a = fused(at.backbone, levels, at.own)
    zero_shot = at.cosines(at.photos, features)
    confused = network("logits", zero_shot, at.own, learning)
    confused = confused + network("feature", a, at.own, learning)
    gate = 1 / (1 + (-network("gate", a, at.own, learning)).exp())
    head = network("head", a, at.own, learning)
    return zero_shot, head, zero_shot + network("confusion", confused, at.own, learning), gate


def logits(at: Case) -> Tensor:
    """Return β z_M + (1 − β) z_D; β is g unless the module has chosen one."""
    _, head, corrected, gate = parts(at)
    mix = at.own.get("mix", gate)
    return mix * head + (1 - mix) * corrected


def loss(at: Case) -> Tensor:
    """Return three cross-entropies and two mean distances from the zero-shot logits."""
    zero_shot, head, corrected, gate = parts(at, learning=True)
    total = (head - zero_shot).abs().mean() + (corrected - zero_shot).abs().mean()
    for z in (head, corrected, gate * head + (1 - gate) * corrected):
        total = total + at.entropy(z)
    return total


FORMULA = Formula("ldc", logits, loss, adam(eps=1e-4, decoupled=1e-4))
test_logits_equal_the_formula = logits_test([FORMULA])
test_first_step_follows_the_gradient_of_the_formula = step_test([FORMULA])


@pytest.mark.usefixtures("float64")
def test_a_fit_keeps_running_statistics_and_the_first_best_mix(
    clip64: Backbone, labels: Labels
) -> None:
    method = make("ldc", recipe={"lr": 0.01}, max_steps=1)
    wanted = method.image_input(clip64)
    data, views = few_shots(clip64, labels, wanted)
    images = draw_images(clip64, 20, seed=7)
    features = clip64.encode_images(images)
    inputs = clip64.encode_images(images, wanted)
    targets = torch.arange(20) % 5
    val = FeatureSet(features, features[None], targets, [inputs])
    module = method.fit(clip64, dataclasses.replace(data, val=val), seeded())
    start = method.init(clip64, data, seeded())
    _, levels = levels_of(clip64, views[0])
    hidden = fused(clip64, levels, start.tensors) @ start["gate_in"].T
    close(module["gate_mean"], 0.1 * hidden.mean(0))
    close(module["gate_variance"], 0.9 + 0.1 * hidden.var(0))
    hits = []
    for i in range(51):
        own = module.tensors | {"mix": torch.tensor(i / 50)}
        found = logits(Case(clip64, labels, own, images))
        hits.append(int((found.argmax(1) == targets).sum()))
    assert hits.index(max(hits)) > 0
    close(module["mix"], torch.tensor(hits.index(max(hits)) / 50))
    close(
        method.attach(module, clip64, labels)(inputs),
        logits(Case(clip64, labels, module.tensors, images)),
    )


def test_running_statistics_that_batches_cannot_update_are_refused(
    clip64: Backbone, labels: Labels
) -> None:
    method = make("ldc")
    data, views = few_shots(clip64, labels, method.image_input(clip64))
    module = method.init(clip64, data, seeded())
    for name in list(module.trained):
        module.trained[name] = module.trained[name].double()
    classifier = method.attach(module, clip64, labels)
    tokens = clip64.encode_images(views[0], method.image_input(clip64))
    assert module["gate_mean"].dtype == torch.float32
    classifier(tokens)
    with pytest.raises(RuntimeError, match="scalar type"):
        classifier.answer(tokens, learning=True)
