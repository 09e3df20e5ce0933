"""Tip-Adapter: z = s f̂ W_0ᵀ + α exp(−β (1 − f̂ Gᵀ)) Y, and its search for α and β."""

from __future__ import annotations

import math

import pytest
import torch
from formulas import photo_texts
from open_clip_reference import encode_texts
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import Module
from compatbench.methods.tip_adapter import TipAdapter


def random_cache(alpha: float, beta: float) -> Module:
    generator = torch.Generator().manual_seed(1)
    keys = torch.randn(9, 16, generator=generator).double()
    owners = [0, 0, 1, 2, 2, 2, 3, 4, 4]
    return Module(
        stored={
            "keys": keys / keys.norm(dim=-1, keepdim=True),
            "values": torch.tensor([[float(o == c) for c in range(5)] for o in owners]).double(),
            "alpha": torch.tensor(alpha).double(),
            "beta": torch.tensor(beta).double(),
        }
    )


def naive_logit(
    backbone: Backbone, image: Tensor, text: Tensor, own_keys: list[Tensor], a: float, b: float
) -> float:
    f = image / image.norm()
    zero_shot = math.exp(float(backbone.model.logit_scale)) * float(f.dot(text) / text.norm())  # type: ignore[arg-type]
    return zero_shot + a * sum(math.exp(-b * (1 - float(f.dot(key)))) for key in own_keys)


@pytest.mark.parametrize(("alpha", "beta"), [(1.17, 1.0), (3.0, 5.5)])
def test_logits_equal_the_formula(
    backbone64: Backbone, labels: Labels, images64: Tensor, alpha: float, beta: float
) -> None:
    module = random_cache(alpha, beta)
    logits = TipAdapter().attach(module, backbone64, labels)(images64)
    for c, name in enumerate(labels.names):
        text = encode_texts(backbone64, [f"a photo of a {name}."])[0]
        own = [key for key, value in zip(module["keys"], module["values"], strict=True) if value[c]]
        for i, image in enumerate(images64):
            expected = naive_logit(backbone64, image, text, own, alpha, beta)
            assert float(logits[i, c]) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_keys_are_normalised_means_over_the_views(
    clip64: Backbone, labels: Labels, make_data: MakeData
) -> None:
    data = make_data(clip64, labels, shots=[2, 1, 3, 0, 1], views=3)
    module = TipAdapter().fit(clip64, data, torch.Generator())
    for i in range(7):
        mean = (data.train.views[0, i] + data.train.views[1, i] + data.train.views[2, i]) / 3
        torch.testing.assert_close(module["keys"][i], mean / mean.norm())


def test_values_are_one_hot_labels(clip: Backbone, labels: Labels, make_data: MakeData) -> None:
    data = make_data(clip, labels, shots=[2, 1, 3, 0, 1])
    values = TipAdapter().fit(clip, data, torch.Generator())["values"]
    assert values.tolist() == [
        [1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_search_equals_a_double_loop(
    eva64: Backbone, labels: Labels, make_data: MakeData, seed: int
) -> None:
    data = make_data(eva64, labels, val=4, seed=seed)
    config = TipAdapter.Config(alpha_steps=6, beta_steps=9, most_alpha=30.0)
    found = TipAdapter(config).fit(eva64, data, torch.Generator())

    texts = photo_texts(eva64, labels)
    keys = data.train.views.mean(0)
    keys = keys / keys.norm(dim=-1, keepdim=True)
    best, winner, scores = -1, (0.0, 0.0), set()
    for i in range(9):
        beta = 0.1 + i * (7.0 - 0.1) / 9
        for j in range(6):
            alpha = 0.1 + j * (30.0 - 0.1) / 6
            right = 0
            for image, target in zip(data.val.plain, data.val.targets.tolist(), strict=True):
                logits = [
                    naive_logit(
                        eva64, image, texts[c], list(keys[data.train.targets == c]), alpha, beta
                    )
                    for c in range(5)
                ]
                right += logits.index(max(logits)) == target
            scores.add(right)
            if right > best:
                best, winner = right, (alpha, beta)
    assert len(scores) > 1  # or any choice would do
    assert (float(found["alpha"]), float(found["beta"])) == pytest.approx(winner)


def test_the_grid_is_the_authors(clip: Backbone, labels: Labels, make_data: MakeData) -> None:
    """0.1 + i (S − 0.1) / steps, with 200 steps for β up to 7 and 20 for α up to 3."""
    module = TipAdapter().fit(clip, make_data(clip, labels, val=4), torch.Generator())
    alphas = [0.1 + j * (3 - 0.1) / 20 for j in range(20)]
    betas = [0.1 + i * (7 - 0.1) / 200 for i in range(200)]
    assert min(abs(float(module["alpha"]) - a) for a in alphas) < 1e-6
    assert min(abs(float(module["beta"]) - b) for b in betas) < 1e-6


def test_without_validation_images_the_initial_weights_stay(
    clip: Backbone, labels: Labels, make_data: MakeData
) -> None:
    module = TipAdapter().fit(clip, make_data(clip, labels, val=0), torch.Generator())
    assert float(module["alpha"]) == pytest.approx(1.17)
    assert float(module["beta"]) == 1.0
