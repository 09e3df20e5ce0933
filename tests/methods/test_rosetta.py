"""Rosetta: z = s (f̂ t̂ᵀ + ρ exp(−β (1 − m(f̂) Gᵀ)) V), the keys G read through words."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from formulas import photo_texts
from open_clip_reference import encode_texts
from scipy.linalg import orthogonal_procrustes
from tiny_models import MakeData, wrap
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.backbone.words import load_words
from compatbench.errors import NotTransferable
from compatbench.method import Module
from compatbench.methods.rosetta import Rosetta
from compatbench.methods.zeroshot import ZeroShot

WORDS = 60
SETTINGS = Rosetta.Config(words=WORDS)


def unit(rows: Tensor) -> np.ndarray:
    return np.array([row / np.linalg.norm(row) for row in rows.double().numpy()])


def word_features(backbone: Backbone) -> np.ndarray:
    every = load_words()
    chosen = [every[math.floor(i * len(every) / WORDS)] for i in range(WORDS)]
    return unit(encode_texts(backbone, [f"a photo of a {word}." for word in chosen]))


def naive_values(keys: np.ndarray, targets: list[int], texts: np.ndarray) -> np.ndarray:
    """V ``[N, C]``: every shot is left out in turn, and the rest is solved without it."""
    shots, classes = len(keys), len(texts)
    kernel = np.exp(-3 * (1 - keys @ keys.T))
    labels = np.array([[float(c == y) - 1 / classes for c in range(classes)] for y in targets])
    solved = np.linalg.solve(kernel + 0.3 * np.eye(shots), labels)
    left_out = []
    for i in range(shots):
        rest = [j for j in range(shots) if j != i]
        inner = kernel[np.ix_(rest, rest)] + 0.3 * np.eye(shots - 1)
        left_out.append(kernel[i, rest] @ np.linalg.solve(inner, labels[rest]))

    def spread(logits: np.ndarray) -> float:
        return float(np.mean([np.std(row, ddof=1) for row in logits]))

    own = spread(kernel @ solved)
    trust = spread(np.array(left_out)) / own
    return solved * 2.5 * trust * spread(keys @ texts.T) / own


@pytest.mark.parametrize("shots", [1, 3, [2, 1, 4, 1, 3]])
def test_the_values_equal_the_formula(
    clip64: Backbone, labels: Labels, make_data: MakeData, shots: int | list[int]
) -> None:
    data = make_data(clip64, labels, shots=shots)
    module = Rosetta(SETTINGS).fit(clip64, data, torch.Generator())
    texts = unit(photo_texts(clip64, labels))
    expected = naive_values(unit(data.train.plain), data.train.targets.tolist(), texts)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(module["values"], expected, rtol=1e-6, atol=1e-9)


def test_logits_equal_the_formula(
    clip64: Backbone, backbone64: Backbone, labels: Labels, make_data: MakeData, images64: Tensor
) -> None:
    data = make_data(clip64, labels)
    module = Rosetta(SETTINGS).fit(clip64, data, torch.Generator())
    logits = Rosetta(SETTINGS).attach(module, backbone64, labels)(images64)
    a, b = word_features(clip64), word_features(backbone64)
    rotation, _ = orthogonal_procrustes(a - a.mean(0), b - b.mean(0))
    turned = (a - a.mean(0)) @ rotation
    rho = np.sum(turned * (b - b.mean(0))) / np.linalg.norm(turned) / np.linalg.norm(b - b.mean(0))
    scale = math.exp(float(backbone64.model.logit_scale))  # type: ignore[arg-type]
    texts = unit(photo_texts(backbone64, labels))
    keys = unit(data.train.plain)
    for i, f in enumerate(unit(images64)):
        m = (f - b.mean(0)) @ rotation.T + a.mean(0)
        m = m / np.linalg.norm(m)
        cache = sum(
            math.exp(-3 * (1 - m @ key)) * value.numpy()
            for key, value in zip(keys, module["values"], strict=True)
        )
        np.testing.assert_allclose(logits[i], scale * (texts @ f + rho * cache), rtol=1e-6)


def turn(backbone: Backbone, rotation: Tensor) -> Backbone:
    """The same model in other coordinates: both projections times a rotation."""
    model = copy.deepcopy(backbone.model)
    model.visual.proj.data = model.visual.proj @ rotation  # type: ignore[union-attr, operator]
    model.text_projection.data = model.text_projection @ rotation  # type: ignore[union-attr, operator]
    return wrap(model, "turned")


def test_another_choice_of_coordinates_makes_no_difference(
    clip64: Backbone, labels: Labels, make_data: MakeData, images64: Tensor
) -> None:
    generator = torch.Generator().manual_seed(1)
    rotation, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64))
    module = Rosetta(SETTINGS).fit(clip64, make_data(clip64, labels), torch.Generator())
    logits = Rosetta(SETTINGS).attach(module, clip64, labels)(images64)
    turned = turn(clip64, rotation)
    found = Rosetta(SETTINGS).attach(module, turned, labels)(images64 @ rotation)
    torch.testing.assert_close(found, logits, rtol=1e-8, atol=1e-8)
    # What the shots say is most of it, so that the turn is seen to be undone.
    plain = ZeroShot().attach(Module(), turned, labels)(images64 @ rotation)
    assert float((found - plain).abs().max()) > 0.1


def test_a_class_without_shots_is_neither_spoken_for_nor_against(
    clip64: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(clip64, labels, shots=[3, 0, 3, 3, 3])
    module = Rosetta(SETTINGS).fit(clip64, data, torch.Generator())
    assert module["values"][:, 1].abs().max() == 0
    torch.testing.assert_close(module["values"].sum(1), torch.zeros(12).double())


def test_another_list_of_words_is_refused(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    module = Rosetta(SETTINGS).fit(clip, make_data(clip, labels), torch.Generator())
    other = SETTINGS.model_copy(update={"word_list": "0" * 64})
    with pytest.raises(NotTransferable, match="another list of words"):
        Rosetta(other).attach(module, clip, labels)
