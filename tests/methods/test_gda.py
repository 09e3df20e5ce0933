"""GDA: z = s f̂ W_0ᵀ + α (f̂ Wᵀ + b), W = μ Σ⁻¹, b = log(1/C) − ½ μ Σ⁻¹ μᵀ."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from formulas import photo_texts
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import Module
from compatbench.methods.gda import GDA
from compatbench.methods.zeroshot import ZeroShot


def naive_classifier(views: Tensor, targets: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """W and b, sample by sample, in the order of the authors' estimate."""
    samples = [
        (image / np.linalg.norm(image), c)
        for view in views.double().numpy()
        for image, c in zip(view, targets, strict=True)
    ]
    classes, size = sorted(set(targets)), views.shape[-1]
    means = {c: np.mean([f for f, y in samples if y == c], axis=0) for c in classes}
    centred = np.array([f - means[c] for f, c in samples])
    covariance = np.cov(centred, rowvar=False)
    shrunk = (len(samples) - 1) * covariance + np.trace(covariance) * np.eye(size)
    precision = size * np.linalg.pinv(shrunk)
    weight = np.array([precision @ means[c] for c in classes])
    bias = [math.log(1 / len(classes)) - 0.5 * means[c] @ precision @ means[c] for c in classes]
    return weight, np.array(bias)


@pytest.mark.parametrize("shots", [[3, 3, 3, 3, 3], [1, 1, 1, 1, 1], [2, 1, 4, 1, 3]])
def test_the_gaussian_classifier_equals_the_formula(
    clip64: Backbone, labels: Labels, make_data: MakeData, shots: list[int]
) -> None:
    data = make_data(clip64, labels, shots=shots)
    module = GDA().fit(clip64, data, torch.Generator())
    weight, bias = naive_classifier(data.train.views, data.train.targets.tolist())
    assert np.abs(weight).max() > 1
    np.testing.assert_allclose(module["weight"], weight, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(module["bias"], bias, rtol=1e-8, atol=1e-8)


def test_single_precision_does_not_lose_the_inverse(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(clip, labels, shots=1)
    module = GDA().fit(clip, data, torch.Generator())
    weight, bias = naive_classifier(data.train.views, data.train.targets.tolist())
    assert module["weight"].dtype == torch.float32
    np.testing.assert_allclose(module["weight"], weight, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(module["bias"], bias, rtol=1e-3, atol=1e-3)


def random_module(alpha: float) -> Module:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 16, generator=generator).double()
    bias = torch.randn(5, generator=generator).double()
    return Module({"weight": weight, "bias": bias}, {"alpha": torch.tensor(alpha).double()})


def test_logits_equal_the_formula(backbone64: Backbone, labels: Labels, images64: Tensor) -> None:
    module = random_module(0.7)
    logits = GDA().attach(module, backbone64, labels)(images64)
    scale = math.exp(float(backbone64.model.logit_scale))  # type: ignore[arg-type]
    texts = photo_texts(backbone64, labels)
    for i, image in enumerate(images64):
        f = image / image.norm()
        for c, text in enumerate(texts):
            gaussian = float(f.dot(module["weight"][c])) + float(module["bias"][c])
            expected = scale * float(f.dot(text) / text.norm()) + 0.7 * gaussian
            assert float(logits[i, c]) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_where_nothing_can_be_estimated_it_is_zero_shot(
    clip: Backbone, labels: Labels, make_data: MakeData, images: Tensor
) -> None:
    """One view of one shot: every feature is its class's mean, and the covariance is zero."""
    data = make_data(clip, labels, shots=1, views=1)
    module = GDA().fit(clip, data, torch.Generator())
    assert not module["weight"].any()
    zero_shot = ZeroShot().attach(Module(), clip, labels)(images)
    logits = GDA().attach(module, clip, labels)(images)
    torch.testing.assert_close(logits.softmax(-1), zero_shot.softmax(-1))


def test_a_class_without_shots_has_the_mean_of_the_other_means(
    clip64: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(clip64, labels, shots=[3, 2, 0, 3, 4])
    module = GDA().fit(clip64, data, torch.Generator())
    others = module["weight"][[0, 1, 3, 4]]
    torch.testing.assert_close(module["weight"][2], others.mean(0))
    renamed = [{0: 0, 1: 1, 3: 2, 4: 3}[c] for c in data.train.targets.tolist()]
    weight, bias = naive_classifier(data.train.views, renamed)
    np.testing.assert_allclose(others, weight, rtol=1e-8, atol=1e-8)
    prior = math.log(4) - math.log(5)
    np.testing.assert_allclose(module["bias"][[0, 1, 3, 4]], bias + prior, rtol=1e-8, atol=1e-8)


def test_the_search_takes_the_first_best_alpha(
    eva64: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(eva64, labels, val=4, seed=2)
    module = GDA().fit(eva64, data, torch.Generator())
    scores = []
    for alpha in (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0):
        changed = Module(module.trained, {"alpha": torch.tensor(alpha).double()})
        logits = GDA().attach(changed, eva64, labels)(data.val.plain)
        right = sum(
            int(row.argmax()) == int(y) for row, y in zip(logits, data.val.targets, strict=True)
        )
        scores.append((right, -alpha))
    assert len({right for right, _ in scores}) > 1
    assert float(module["alpha"]) == pytest.approx(-max(scores)[1])


def test_without_validation_images_alpha_is_where_the_authors_search_starts(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    module = GDA().fit(clip, make_data(clip, labels, val=0), torch.Generator())
    assert float(module["alpha"]) == pytest.approx(0.1)
