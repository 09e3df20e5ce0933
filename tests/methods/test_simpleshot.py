"""SimpleShot: −s · ‖g(f) − m_c‖², g centred and normalised, m the class means of g."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData
from compatbench.methods.simpleshot import SimpleShot


def unit(x: Tensor) -> Tensor:
    return x / x.dot(x).sqrt()


@pytest.mark.parametrize("shots", [[3, 3, 3, 3, 3], [2, 1, 3, 1, 1]])
def test_logits_equal_the_formula(
    clip64: Backbone, labels: Labels, make_data: MakeData, images64: Tensor, shots: list[int]
) -> None:
    data = make_data(clip64, labels, shots=shots)
    module = SimpleShot().fit(clip64, data, torch.Generator())
    logits = SimpleShot().attach(module, clip64, labels)(images64)

    samples = [
        (unit(image), int(c))
        for view in data.train.views
        for image, c in zip(view, data.train.targets, strict=True)
    ]
    centre = sum(f for f, _ in samples) / len(samples)
    scale = math.exp(float(clip64.model.logit_scale))  # type: ignore[arg-type]
    for c in range(5):
        own = [unit(f - centre) for f, y in samples if y == c]
        mean = sum(own) / len(own)
        for i, image in enumerate(images64):
            distance = (unit(unit(image) - centre) - mean).norm()
            expected = -scale * float(distance) ** 2
            assert float(logits[i, c]) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_an_image_is_of_the_class_whose_mean_it_is(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(clip, labels, shots=1, views=1)
    module = SimpleShot().fit(clip, data, torch.Generator())
    logits = SimpleShot().attach(module, clip, labels)(data.train.views[0])
    assert logits.argmax(-1).tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(logits.diagonal(), torch.zeros(5), atol=1e-4, rtol=0)


def test_a_class_without_shots_has_its_mean_at_the_centre(
    clip: Backbone, labels: Labels, make_data: MakeData, images: Tensor
) -> None:
    data = make_data(clip, labels, shots=[2, 3, 0, 3, 2])
    module = SimpleShot().fit(clip, data, torch.Generator())
    logits = SimpleShot().attach(module, clip, labels)(images)
    torch.testing.assert_close(logits[:, 2], torch.full((7,), -clip.logit_scale))


def test_text_plays_no_part(clip: Backbone, data: FewShotData, images: Tensor) -> None:
    module = SimpleShot().fit(clip, data, torch.Generator())
    renamed = Labels(tuple("abcde"), ("{}",), "{}")
    logits = SimpleShot().attach(module, clip, data.labels)(images)
    assert torch.equal(SimpleShot().attach(module, clip, renamed)(images), logits)
