"""Rosetta: z = s (f̂ t̂ᵀ + ρ exp(−β (1 − m(f̂) Gᵀ)) V), the keys G read through words."""

from __future__ import annotations

import math

import pytest
import torch
from formulas import close, make, scale_of, unit, unit_texts
from open_clip_reference import encode_texts
from scipy.linalg import orthogonal_procrustes
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.backbone.words import load_words
from compatbench.errors import NotTransferable
from compatbench.method import FewShotData

WORDS = 60


def word_features(backbone: Backbone) -> Tensor:
    every = load_words()
    chosen = [every[math.floor(i * len(every) / WORDS)] for i in range(WORDS)]
    return unit(encode_texts(backbone, [f"a photo of a {word}." for word in chosen]))


def naive_values(keys: Tensor, targets: list[int], texts: Tensor) -> Tensor:
    """V ``[N, C]``: every shot is left out in turn, and the rest is solved without it."""
    shots, classes = len(keys), len(texts)
    kernel = (-3 * (1 - keys @ keys.T)).exp()
    wanted = torch.eye(classes).double()[targets] - 1 / classes
    penalised = kernel + 0.3 * torch.eye(shots)
    solved = torch.linalg.solve(penalised, wanted)
    left_out = []
    for i in range(shots):
        rest = [j for j in range(shots) if j != i]
        inner = torch.linalg.solve(penalised[rest][:, rest], wanted[rest])
        left_out.append(kernel[i, rest] @ inner)

    def spread(logits: Tensor) -> Tensor:
        return logits.std(1).mean()

    own = spread(kernel @ solved)
    return solved * 2.5 * spread(torch.stack(left_out)) / own * spread(keys @ texts.T) / own


@pytest.mark.parametrize("shots", [1, 3, [2, 1, 4, 1, 3]])
def test_the_values_equal_the_formula(
    clip64: Backbone, few: MakeData, shots: int | list[int]
) -> None:
    data = few(shots=shots)
    values = make("rosetta", words=WORDS).fit(clip64, data, torch.Generator())["values"]
    texts, targets = unit_texts(clip64, data.labels), data.train.targets.tolist()
    expected = naive_values(unit(data.train.plain), targets, texts)
    assert expected.abs().max() > 0.01
    close(values, expected, 1e-6)


def test_logits_equal_the_formula(
    clip64: Backbone, backbone64: Backbone, data64: FewShotData, images64: Tensor
) -> None:
    method, labels = make("rosetta", words=WORDS), data64.labels
    module = method.fit(clip64, data64, torch.Generator())
    logits = method.attach(module, backbone64, labels)(images64)
    a, b = word_features(clip64).detach(), word_features(backbone64).detach()
    a, b, mean, target_mean = a - a.mean(0), b - b.mean(0), a.mean(0), b.mean(0)
    rotation = torch.from_numpy(orthogonal_procrustes(a, b)[0])
    rho = (a @ rotation * b).sum() / a.norm() / b.norm()
    texts, keys = unit_texts(backbone64, labels), unit(data64.train.plain)
    for row, f in zip(logits, unit(images64), strict=True):
        m = unit((f - target_mean) @ rotation.T + mean)
        pairs = zip(keys, module["values"], strict=True)
        cache = sum(math.exp(-3 * (1 - float(m @ key))) * value for key, value in pairs)
        close(row, scale_of(backbone64) * (texts @ f + rho * cache), 1e-6)


def test_a_class_without_shots_is_neither_spoken_for_nor_against(
    clip64: Backbone, few: MakeData
) -> None:
    data = few(shots=[3, 0, 3, 3, 3])
    values = make("rosetta", words=WORDS).fit(clip64, data, torch.Generator())["values"]
    assert values[:, 1].abs().max() == 0
    close(values.sum(1), torch.zeros(12).double())


def test_another_list_of_words_is_refused(clip: Backbone, data: FewShotData) -> None:
    module = make("rosetta", words=WORDS).fit(clip, data, torch.Generator())
    with pytest.raises(NotTransferable, match="another list of words"):
        make("rosetta", words=WORDS, word_list="0" * 64).attach(module, clip, data.labels)
