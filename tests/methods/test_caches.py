"""Tip-Adapter, APE and their trained forms: a cache of the shots beside the zero-shot logits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from formulas import Formula, Tensors, adam, logits_test, scale_of, step_test, unit, unit_texts
from tiny_models import MakeData
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData
from compatbench.methods._shared.cache import choose_channels
from compatbench.methods.ape import APE
from compatbench.methods.ape_t import APET
from compatbench.methods.tip_adapter import TipAdapter
from compatbench.methods.tip_adapter_f import TipAdapterF


def tip_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    """z = s f̂ W_0ᵀ + α exp(−β (1 − f̂ Gᵀ)) Y; 1.17 and 1 are the weights before a search."""
    alpha, beta = own.get("alpha", 1.17), own.get("beta", 1.0)
    rows = []
    for f in unit(images):
        row = list(scale_of(backbone) * unit_texts(backbone, labels) @ f)
        for key, owner in zip(own["keys"], own["values"].argmax(-1).tolist(), strict=True):
            row[owner] = row[owner] + alpha * torch.exp(-beta * (1 - f.dot(key)))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def ape_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    """A cache in chosen channels, its values weighted by exp(γ KL)."""
    texts, alpha, beta, gamma = unit_texts(backbone, labels), *map(float, _weights(own))
    where = own["channels"].nonzero()[:, 0].tolist()
    logits = scale_of(backbone) * unit(images) @ texts.T
    for i, image in enumerate(images):
        for key, owner in zip(own["keys"], own["values"].argmax(-1).tolist(), strict=True):
            key = unit(key[where])
            said = torch.stack([key.dot(unit(t[where])) for t in texts]).softmax(0)
            kl = 0.0
            for c in range(5):
                y = float(c == owner)
                kl += y * math.log2((y + 1e-6) / (float(said[c]) + 1e-6))
            nearness = math.exp(-beta * (1 - float(unit(image[where]).dot(key))))
            logits[i, owner] += alpha * nearness * math.exp(gamma * kl)
    return logits


def _weights(own: Tensors) -> list[Tensor]:
    return [own[name] for name in ("alpha", "beta", "gamma")]


def ape_t_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    """One residual per class moves its text and its keys in chosen channels."""
    where = own["channels"].nonzero()[:, 0].tolist()
    columns = []
    for c, text in enumerate(unit_texts(backbone, labels)):
        shift = torch.zeros_like(text)
        for j, k in enumerate(where):
            shift[k] = own["residual"][c, j]
        column = [scale_of(backbone) * f.dot(text + shift) for f in unit(images)]
        for key, value, u in zip(own["keys"], own["values"], own["value_weights"], strict=True):
            if value[c]:
                for i, f in enumerate(unit(images)):
                    nearness = torch.exp(-own["beta"] * (1 - f.dot(key + shift)))
                    column[i] = column[i] + own["alpha"] * u * nearness
        columns.append(torch.stack(column))
    return torch.stack(columns, dim=1)


def start_of_tip_f(backbone: Backbone, data: FewShotData) -> Tensors:
    return {"keys": unit(data.train.views.mean(0))}


def start_of_ape_t(backbone: Backbone, data: FewShotData) -> Tensors:
    channels = choose_channels(APET.Config(), unit_texts(backbone, data.labels))
    start = {"residual": torch.zeros(5, int(channels.sum())), "value_weights": torch.ones(15)}
    return start_of_tip_f(backbone, data) | start | {"channels": channels}


STEPS = {
    "tip_adapter_f": Formula(
        TipAdapterF,
        tip_logits,
        update=adam(1e-4, decoupled=0.01),
        recipe={"lr": 0.1},
        start=start_of_tip_f,
        exact=1e-9,
    ),
    "ape_t": Formula(
        APET,
        ape_t_logits,
        update=adam(1e-3, decoupled=0.1),
        recipe={"lr": 0.1},
        start=start_of_ape_t,
        exact=1e-6,
        step=1e-6,
    ),
}

FORMULAS = {
    "tip_adapter": Formula(TipAdapter, tip_logits, exact=1e-6),
    "tip_adapter-other": Formula(TipAdapter, tip_logits, settings={"most_alpha": 30.0}, exact=1e-6),
    "ape": Formula(APE, ape_logits, exact=1e-6),
    "ape-other": Formula(
        APE, ape_logits, settings={"most_alpha": 30.0, "most_gamma": 1.5}, exact=1e-6
    ),
    **STEPS,
}


test_logits_equal_the_formula = logits_test(FORMULAS)
test_the_first_step_follows_the_gradient_of_the_formula = step_test(STEPS)


@pytest.mark.parametrize("count", [None, 2])
@pytest.mark.parametrize("method", [TipAdapter, APE, TipAdapterF, APET])
def test_the_cache_has_normalised_means_over_the_last_views_and_one_hot_labels(
    clip64: Backbone, labels: Labels, make_data: MakeData, method: Any, count: int | None
) -> None:
    data = make_data(clip64, labels, shots=[2, 1, 3, 0, 1], views=3)
    subject = method(method.Config(cache_views=count))
    module = getattr(subject, "init", subject.fit)(clip64, data, torch.Generator())
    for i in range(7):
        one, two, three = data.train.views[:, i]
        mean = (one + two + three) / 3 if count is None else (two + three) / 2
        torch.testing.assert_close(module["keys"][i], mean / mean.norm())
    owners = [0, 0, 1, 2, 2, 2, 4]
    assert module["values"].tolist() == [[float(c == owner) for c in range(5)] for owner in owners]


def naive_channels(
    texts: Tensor, keys: list[Tensor], owners: list[int], size: int, weights: tuple[float, float]
) -> set[int]:
    """The criterion by a loop over all pairs of features of different classes."""
    features = [*zip(texts, range(len(texts)), strict=True), *zip(keys, owners, strict=True)]
    pairs = [f * g for f, i in features for g, j in features if i != j]
    similarity = torch.stack(pairs).mean(0)
    mean = texts.mean(0)
    variance = sum((t - mean) ** 2 for t in texts) / (len(texts) - 1)
    criterion = -weights[0] * similarity + weights[1] * variance
    return set(sorted(range(len(mean)), key=lambda k: -float(criterion[k]))[:size])


@pytest.mark.parametrize("shots", [[2, 2, 2, 2, 2], [2, 1, 3, 0, 1]])
@pytest.mark.parametrize("weights", [(0.7, 0.3), (0.1, 0.9)])
def test_ape_s_channels_equal_the_criterion(
    clip64: Backbone,
    labels: Labels,
    make_data: MakeData,
    shots: list[int],
    weights: tuple[float, float],
) -> None:
    data = make_data(clip64, labels, shots=shots)
    config = APE.Config(channels=0.4, similarity_weight=weights[0], variance_weight=weights[1])
    module = APE(config).fit(clip64, data, torch.Generator())
    keys = list(unit(data.train.views.mean(0)))
    texts, owners = unit_texts(clip64, labels), data.train.targets.tolist()
    expected = naive_channels(texts, keys, owners, 6, weights)
    assert set(module["channels"].nonzero()[:, 0].tolist()) == expected


def test_channels_of_the_text_alone_equal_the_criterion_and_half_are_kept(
    clip64: Backbone, b16_sized: Backbone, labels: Labels
) -> None:
    texts = unit_texts(clip64, labels)
    mask = choose_channels(APE.Config(channels=0.5), texts)
    assert set(mask.nonzero()[:, 0].tolist()) == naive_channels(texts, [], [], 8, (0.7, 0.3))
    # The authors' 500 of 1,024.
    assert int(choose_channels(APE.Config(), b16_sized.zero_shot(labels)).sum()) == 250
