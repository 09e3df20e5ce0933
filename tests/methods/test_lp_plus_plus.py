"""LP++: z = f̂ Wᵀ + b + a ⊙ (f̂ W_0ᵀ), its initialisation and its step sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from formulas import unit, unit_texts
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module
from compatbench.methods.lp_plus_plus import LPPlusPlus
from compatbench.methods.zeroshot import ZeroShot


def naive_fit(
    backbone: Backbone, data: FewShotData, bias: Tensor, steps: int, accumulate: bool
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """W, b and a after each step, with gradients written out."""
    features, texts = unit(data.train.views[0]), unit_texts(backbone, data.labels)
    targets, classes = data.train.targets.tolist(), len(data.labels)
    n = len(targets)
    w = torch.zeros(classes, features.shape[1])
    for f, c in zip(features, targets, strict=True):
        w[c] += f
    means = []
    for c in sorted(set(targets)):
        own = [float(f.dot(texts[c])) for f, y in zip(features, targets, strict=True) if y == c]
        means.append(sum(own) / len(own))
    a = torch.full((classes,), 250 * sum(means) / len(means))
    b = bias.clone()
    cosines = features @ texts.T
    rate = 4 * n / float(np.linalg.eigvalsh((features.T @ features).numpy()).max())
    text_rate = n / (4 * max(float(cosines[:, c].square().sum()) for c in range(classes)))
    velocity_w, velocity_b = torch.zeros_like(w), torch.zeros_like(b)
    total, states = torch.zeros_like(a), []
    truth = torch.tensor([[float(y == c) for c in range(classes)] for y in targets])
    for step in range(1, steps + 1):
        logits = features @ w.T + b + a * cosines
        wrong = (logits.softmax(-1) - truth) / n
        velocity_w = 0.9 * velocity_w + wrong.T @ features
        velocity_b = 0.9 * velocity_b + wrong.sum(0)
        slope = (wrong * cosines).sum(0)
        total = total + slope if accumulate else slope
        w, b = w - rate * velocity_w, b - rate * velocity_b
        if step % 10 == 0:
            a = a - text_rate * total
        states.append((w, b, a))
    return states


def test_logits_equal_the_formula(backbone64: Backbone, labels: Labels, images64: Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, bias, a = (
        torch.randn(shape, generator=generator).double() for shape in ((5, 16), (5,), (5,))
    )
    module = Module({"weight": weight, "bias": bias, "text_weight": a})
    logits = LPPlusPlus().attach(module, backbone64, labels)(images64)
    texts = unit_texts(backbone64, labels)
    for i, f in enumerate(unit(images64)):
        for c in range(5):
            expected = float(f.dot(weight[c]) + bias[c] + a[c] * f.dot(texts[c]))
            assert float(logits[i, c]) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("shots", [[3, 3, 3, 3, 3], [3, 1, 0, 2, 3]])
def test_the_fit_equals_the_formulas(
    float64: None,
    clip64: Backbone,
    labels: Labels,
    make_data: MakeData,
    accumulate: bool,
    shots: list[int],
) -> None:
    data = make_data(clip64, labels, shots=shots, val=0)
    method = LPPlusPlus(LPPlusPlus.Config(max_steps=25, accumulate=accumulate))
    found = method.fit(clip64, data, torch.Generator().manual_seed(3))
    start = method.init(clip64, data, torch.Generator().manual_seed(3))
    weight, bias, a = naive_fit(clip64, data, start["bias"], 25, accumulate)[-1]
    assert (found["text_weight"] - start["text_weight"]).abs().max() > 1e-4
    torch.testing.assert_close(found["weight"], weight, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found["bias"], bias, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found["text_weight"], a, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_last_step_that_is_best_on_validation_images_is_kept(
    float64: None, clip64: Backbone, labels: Labels, make_data: MakeData, seed: int
) -> None:
    data = make_data(clip64, labels, val=4, seed=seed)
    method = LPPlusPlus(LPPlusPlus.Config(max_steps=30))
    found = method.fit(clip64, data, torch.Generator().manual_seed(3))
    start = method.init(clip64, data, torch.Generator().manual_seed(3))
    features, texts = unit(data.val.plain), unit_texts(clip64, labels)
    best, kept, scores = -1, torch.zeros(()), set()
    for weight, bias, a in naive_fit(clip64, data, start["bias"], 30, accumulate=True):
        logits = features @ weight.T + bias + a * (features @ texts.T)
        right = int((logits.argmax(-1) == data.val.targets).sum())
        scores.add(right)
        if right >= best:
            best, kept = right, weight
    assert len(scores) > 1
    torch.testing.assert_close(found["weight"], kept, rtol=1e-8, atol=1e-9)


def test_the_bias_starts_as_a_linear_layer_s(b16_sized: Backbone, make_data: MakeData) -> None:
    labels = Labels(tuple(f"thing {i}" for i in range(200)), ("{}",), "{}")
    data = make_data(b16_sized, labels, shots=1)
    bias = LPPlusPlus().init(b16_sized, data, torch.Generator().manual_seed(0))["bias"]
    bound = 1 / math.sqrt(512)
    assert bias.abs().max() <= bound
    assert bias.abs().max() > 0.9 * bound
    assert bias.std() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_with_nothing_learned_it_is_zero_shot_by_a(
    backbone: Backbone, labels: Labels, images: Tensor
) -> None:
    a = torch.full((5,), backbone.logit_scale)
    module = Module({"weight": torch.zeros(5, 16), "bias": torch.zeros(5), "text_weight": a})
    logits = LPPlusPlus().attach(module, backbone, labels)(images)
    torch.testing.assert_close(logits, ZeroShot().attach(Module(), backbone, labels)(images))
